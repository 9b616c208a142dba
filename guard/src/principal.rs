//! `awsPrincipalArn`, taken apart in one place.
//!
//! The specification ("`GetKeyMetadata`", "Encrypt", "Decrypt") refers to `aws:PrincipalArn`: "When the caller is another AWS
//! service, this field will contain either the service principal ending in amazonaws.com … or `AWS Internal`". For roles that global
//! condition key holds the role's ARN, not that of the session; sessions are read all the same.
//!
//! Guarantees: parts are there only where the whole text has the one form that AWS documents; anything else is
//! [`PrincipalKind::Other`], which has no account, so that no condition on an account holds for it.

/// What kind of caller it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrincipalKind {
    /// `arn:aws:iam::123456789012:user/path/Alice`
    User,
    /// `arn:aws:iam::123456789012:role/path/Payments`
    Role,
    /// `arn:aws:sts::123456789012:assumed-role/Payments/session`
    AssumedRole,
    /// `arn:aws:iam::123456789012:root`
    Root,
    /// `arn:aws:sts::123456789012:federated-user/Bob`
    FederatedUser,
    /// `ec2.amazonaws.com`
    Service,
    /// `AWS Internal`
    AwsInternal,
    /// Anything else.
    Other,
}

impl PrincipalKind {
    /// As policies name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Role => "role",
            Self::AssumedRole => "assumed-role",
            Self::Root => "root",
            Self::FederatedUser => "federated-user",
            Self::Service => "service",
            Self::AwsInternal => "aws-internal",
            Self::Other => "other",
        }
    }
}

/// A caller of KMS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Principal<'a> {
    /// The whole text.
    pub arn: &'a str,
    /// What kind.
    pub kind: PrincipalKind,
    /// `aws`, `aws-cn`, `aws-us-gov`, …
    pub partition: Option<&'a str>,
    /// 12 digits.
    pub account: Option<&'a str>,
    /// Of users and roles, with a slash at both ends.
    pub path: Option<&'a str>,
    /// Of users and federated users.
    pub user_name: Option<&'a str>,
    /// Of roles, assumed or not.
    pub role_name: Option<&'a str>,
    /// Of assumed roles.
    pub session_name: Option<&'a str>,
    /// Of services.
    pub service: Option<&'a str>,
}

impl<'a> Principal<'a> {
    /// Takes `awsPrincipalArn` apart.
    #[must_use]
    pub fn parse(arn: &'a str) -> Self {
        Self::from_arn(arn).unwrap_or_else(|| {
            let other = Self::of(arn, PrincipalKind::Other);
            if arn == "AWS Internal" {
                return Self { kind: PrincipalKind::AwsInternal, ..other };
            }
            if is_service(arn) {
                return Self { kind: PrincipalKind::Service, service: Some(arn), ..other };
            }
            other
        })
    }

    const fn of(arn: &'a str, kind: PrincipalKind) -> Self {
        Self {
            arn,
            kind,
            partition: None,
            account: None,
            path: None,
            user_name: None,
            role_name: None,
            session_name: None,
            service: None,
        }
    }

    fn from_arn(arn: &'a str) -> Option<Self> {
        let Arn { partition, service, region, account, resource } = Arn::parse(arn)?;
        if !region.is_empty() {
            return None;
        }
        let of = |kind| Self { partition: Some(partition), account: Some(account), ..Self::of(arn, kind) };
        if service == "iam" && resource == "root" {
            return Some(of(PrincipalKind::Root));
        }
        let (kind, rest) = resource.split_once('/')?;
        match (service, kind) {
            ("iam", "user") => {
                let (path, name) = path_and_name(resource, rest)?;
                Some(Self { path: Some(path), user_name: Some(name), ..of(PrincipalKind::User) })
            }
            ("iam", "role") => {
                let (path, name) = path_and_name(resource, rest)?;
                Some(Self { path: Some(path), role_name: Some(name), ..of(PrincipalKind::Role) })
            }
            ("sts", "assumed-role") => {
                let (role, session) = rest.split_once('/')?;
                let (role, session) = (part(role)?, part(session)?);
                Some(Self { role_name: Some(role), session_name: Some(session), ..of(PrincipalKind::AssumedRole) })
            }
            ("sts", "federated-user") => {
                Some(Self { user_name: Some(part(rest)?), ..of(PrincipalKind::FederatedUser) })
            }
            _ => None,
        }
    }
}

/// `arn:partition:service:region:account:resource`
pub(crate) struct Arn<'a> {
    pub(crate) partition: &'a str,
    pub(crate) service: &'a str,
    pub(crate) region: &'a str,
    pub(crate) account: &'a str,
    pub(crate) resource: &'a str,
}

impl<'a> Arn<'a> {
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.splitn(6, ':');
        let prefix = parts.next()?;
        let arn = Self {
            partition: parts.next()?,
            service: parts.next()?,
            region: parts.next()?,
            account: parts.next()?,
            resource: parts.next()?,
        };
        let is_label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let is_partition = arn.partition == "aws"
            || arn.partition.strip_prefix("aws-").is_some_and(|rest| !rest.is_empty() && rest.bytes().all(is_label));
        (prefix == "arn" && is_partition && is_account(arn.account)).then_some(arn)
    }
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// One part of a resource: not empty, and no slash in it.
fn part(text: &str) -> Option<&str> {
    (!text.is_empty() && !text.contains('/')).then_some(text)
}

/// `user/division/Alice` is `/division/` and `Alice`.
fn path_and_name<'a>(resource: &'a str, rest: &'a str) -> Option<(&'a str, &'a str)> {
    let name = part(rest.rsplit('/').next()?)?;
    let kind_len = resource.len().checked_sub(rest.len())?.checked_sub(1)?;
    let path = resource.get(kind_len..)?.strip_suffix(name)?;
    Some((path, name))
}

/// "the service principal ending in amazonaws.com", and China's.
fn is_service(text: &str) -> bool {
    let name = text.strip_suffix(".amazonaws.com").or_else(|| text.strip_suffix(".amazonaws.com.cn"));
    let is_host = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    name.is_some_and(|name| !name.is_empty() && !name.starts_with('.') && name.bytes().all(is_host))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_kms_may_name() {
        use PrincipalKind::{AssumedRole, AwsInternal, FederatedUser, Other, Role, Root, Service, User};
        type Parts = [&'static str; 7];
        // Kind; partition, account, path, user name, role name, session name, service: "" where there is none.
        let table: &[(&str, PrincipalKind, Parts)] = &[
            ("arn:aws:iam::123456789012:user/Alice", User, ["aws", "123456789012", "/", "Alice", "", "", ""]),
            (
                "arn:aws-cn:iam::123456789012:user/a/b/Al.ice@x",
                User,
                ["aws-cn", "123456789012", "/a/b/", "Al.ice@x", "", "", ""],
            ),
            (
                "arn:aws-us-gov:iam::123456789012:role/Payments",
                Role,
                ["aws-us-gov", "123456789012", "/", "", "Payments", "", ""],
            ),
            (
                "arn:aws:iam::123456789012:role/aws-service-role/rds.amazonaws.com/AWSServiceRoleForRDS",
                Role,
                ["aws", "123456789012", "/aws-service-role/rds.amazonaws.com/", "", "AWSServiceRoleForRDS", "", ""],
            ),
            (
                "arn:aws:sts::123456789012:assumed-role/Payments/i-0abc",
                AssumedRole,
                ["aws", "123456789012", "", "", "Payments", "i-0abc", ""],
            ),
            ("arn:aws:iam::123456789012:root", Root, ["aws", "123456789012", "", "", "", "", ""]),
            (
                "arn:aws:sts::123456789012:federated-user/Bob",
                FederatedUser,
                ["aws", "123456789012", "", "Bob", "", "", ""],
            ),
            ("ec2.amazonaws.com", Service, ["", "", "", "", "", "", "ec2.amazonaws.com"]),
            ("vpce.eu-central-1.amazonaws.com", Service, ["", "", "", "", "", "", "vpce.eu-central-1.amazonaws.com"]),
            ("ec2.amazonaws.com.cn", Service, ["", "", "", "", "", "", "ec2.amazonaws.com.cn"]),
            ("AWS Internal", AwsInternal, [""; 7]),
        ];
        for (arn, kind, parts) in table {
            let read = Principal::parse(arn);
            assert_eq!((read.arn, read.kind), (*arn, *kind));
            let found = [
                read.partition,
                read.account,
                read.path,
                read.user_name,
                read.role_name,
                read.session_name,
                read.service,
            ];
            assert_eq!(found.map(Option::unwrap_or_default), *parts, "{arn}");
        }
        for arn in [
            "",
            "aws internal",
            "AWS Internal ",
            "amazonaws.com",
            ".amazonaws.com",
            "evilamazonaws.com",
            "ec2.amazonaws.com.evil.example",
            "x/ec2.amazonaws.com",
            "EC2.amazonaws.com",
            "arn:aws:iam::123456789012",
            "arn:aws:iam::123456789012:",
            "arn:aws:iam::123456789012:user",
            "arn:aws:iam::123456789012:user/",
            "arn:aws:iam::123456789012:user/path/",
            "arn:aws:iam::123456789012:group/Admins",
            "arn:aws:iam::12345678901:user/Alice",
            "arn:aws:iam::12345678901x:user/Alice",
            "arn:aws:iam::１２３４:user/Alice",
            "arn:aws:iam:us-east-1:123456789012:user/Alice",
            "arn:awsome:iam::123456789012:user/Alice",
            "arn:aws-:iam::123456789012:user/Alice",
            "arn:aws:sts::123456789012:assumed-role/Payments",
            "arn:aws:sts::123456789012:assumed-role//session",
            "arn:aws:sts::123456789012:assumed-role/Payments/a/b",
            "arn:aws:sts::123456789012:federated-user/a/b",
            "arn:aws:sts::123456789012:root",
            "arn:aws:s3::123456789012:user/Alice",
            "xarn:aws:iam::123456789012:user/Alice",
            "*",
        ] {
            assert_eq!(Principal::parse(arn), Principal::of(arn, Other));
        }
    }

    proptest! {
        #[test]
        fn any_text_has_a_kind_and_parts_are_of_the_text(text in "(arn:aws[a-z-]{0,5}:(iam|sts):[a-z]{0,1}:[0-9]{11,13}:)?[a-z:/A-Z .-]{0,60}") {
            let read = Principal::parse(&text);
            let parts = [read.partition, read.account, read.path, read.user_name, read.role_name, read.session_name, read.service];
            for part in parts.into_iter().flatten() {
                prop_assert!(!part.is_empty() && text.contains(part));
            }
            prop_assert_eq!(read.account.is_some(), text.starts_with("arn:") && read.kind != PrincipalKind::Other);
        }
    }
}
