//! A second reader of JSON (RFC 8259): strict, and with every member of an object in order, doubled ones too.

/// A value. A string or a name that no Unicode text can hold (half a surrogate pair) is `None`.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    /// `true`, `false` or a number.
    Other,
    Text(Option<String>),
    Array,
    Object(Vec<(Option<String>, Self)>),
}

/// Why a text was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is not JSON.
    Malformed,
    /// It is nested so deeply that this reader gives up.
    TooDeep,
}

const DEPTH_MAX: usize = 200;

/// Reads one value and the white space around it.
pub(super) fn read(bytes: &[u8]) -> Result<Value, Refusal> {
    let text = std::str::from_utf8(bytes).map_err(|_| Refusal::Malformed)?;
    let mut reader = Reader { rest: text };
    let value = reader.value(0)?;
    reader.space();
    if reader.rest.is_empty() { Ok(value) } else { Err(Refusal::Malformed) }
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    fn take(&mut self, text: &str) -> bool {
        let found = self.rest.strip_prefix(text);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    fn expect(&mut self, text: &str) -> Result<(), Refusal> {
        if self.take(text) { Ok(()) } else { Err(Refusal::Malformed) }
    }

    fn value(&mut self, depth: usize) -> Result<Value, Refusal> {
        if depth > DEPTH_MAX {
            return Err(Refusal::TooDeep);
        }
        self.space();
        if self.take("null") {
            Ok(Value::Null)
        } else if self.take("true") || self.take("false") {
            Ok(Value::Other)
        } else if self.rest.starts_with('"') {
            self.text().map(Value::Text)
        } else if self.take("[") {
            self.list("]", |reader| reader.value(depth + 1).map(drop))?;
            Ok(Value::Array)
        } else if self.take("{") {
            let mut members = Vec::new();
            self.list("}", |reader| {
                reader.space();
                let name = reader.text()?;
                reader.space();
                reader.expect(":")?;
                members.push((name, reader.value(depth + 1)?));
                Ok(())
            })?;
            Ok(Value::Object(members))
        } else {
            self.number().map(|()| Value::Other)
        }
    }

    fn list(&mut self, end: &str, mut part: impl FnMut(&mut Self) -> Result<(), Refusal>) -> Result<(), Refusal> {
        self.space();
        if self.take(end) {
            return Ok(());
        }
        loop {
            part(self)?;
            self.space();
            if self.take(end) {
                return Ok(());
            }
            self.expect(",")?;
        }
    }

    fn digits(&mut self) -> Result<(), Refusal> {
        let rest = self.rest.trim_start_matches(|character: char| character.is_ascii_digit());
        let some = rest.len() < self.rest.len();
        self.rest = rest;
        if some { Ok(()) } else { Err(Refusal::Malformed) }
    }

    fn number(&mut self) -> Result<(), Refusal> {
        self.take("-");
        if !self.take("0") {
            self.digits()?;
        }
        if self.take(".") {
            self.digits()?;
        }
        if self.take("e") || self.take("E") {
            let _sign = self.take("+") || self.take("-");
            self.digits()?;
        }
        Ok(())
    }

    fn text(&mut self) -> Result<Option<String>, Refusal> {
        self.expect("\"")?;
        let mut units = Vec::new();
        loop {
            let mut characters = self.rest.chars();
            let character = characters.next().ok_or(Refusal::Malformed)?;
            self.rest = characters.as_str();
            match character {
                '"' => return Ok(String::from_utf16(&units).ok()),
                '\\' => units.push(self.escape()?),
                '\0'..'\u{20}' => return Err(Refusal::Malformed),
                other => units.extend_from_slice(other.encode_utf16(&mut [0; 2])),
            }
        }
    }

    fn escape(&mut self) -> Result<u16, Refusal> {
        const NAMED: [(&str, char); 8] = [
            ("\"", '"'),
            ("\\", '\\'),
            ("/", '/'),
            ("b", '\u{8}'),
            ("f", '\u{c}'),
            ("n", '\n'),
            ("r", '\r'),
            ("t", '\t'),
        ];
        for (name, character) in NAMED {
            if self.take(name) {
                return u16::try_from(u32::from(character)).map_err(|_| Refusal::Malformed);
            }
        }
        self.expect("u")?;
        let (digits, rest) = self.rest.split_at_checked(4).ok_or(Refusal::Malformed)?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Refusal::Malformed);
        }
        self.rest = rest;
        u16::from_str_radix(digits, 16).map_err(|_| Refusal::Malformed)
    }
}
