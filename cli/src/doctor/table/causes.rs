//! What can be wrong, in the order in which it stops a request.

mod reach;
mod refuse;
mod serve;

pub use reach::*;
pub use refuse::*;
pub use serve::*;

use super::Cause;

/// Declares causes, and the list of them under its name: `NAME = "id" Grade [code, exception] title, why, remedy`, where `-` is none.
macro_rules! causes {
    (@named -) => { None };
    (@named $name:literal) => { Some($name) };
    ($list:ident: $($cause:ident = $id:literal $grade:ident [$code:tt, $exception:tt]
        title: $title:literal, why: $why:literal, remedy: $remedy:literal;)+) => {
        $(
            #[doc = concat!("`", $id, "`: ", $title)]
            pub static $cause: $crate::doctor::table::Cause = $crate::doctor::table::Cause {
                id: $id,
                title: $title,
                grade: $crate::doctor::table::Grade::$grade,
                code: causes!(@named $code),
                exception: causes!(@named $exception),
                why: $why,
                remedy: $remedy,
            };
        )+
        pub(super) static $list: &[&$crate::doctor::table::Cause] = &[$(&$cause),+];
    };
}
use causes;

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Cause> {
    REACH.iter().chain(SERVE).chain(REFUSE).copied()
}
