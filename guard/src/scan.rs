//! Bounds on a policy's text before the parser sees it.
//!
//! Cedar's parser recurses for brackets and conditionals and, once a tree is made, for chains of operators, without looking at its
//! stack: text that is deep enough would end the process. So depth and width are counted on the text, by the rules by which Cedar's
//! lexer tells strings and comments from the rest (`grammar.lalrpop`, "match").
//!
//! Guarantees: text that passes has at most the bounds of `shared/src/limits.rs`, counted so that nothing is counted too low. Refuses:
//! Cedar's extension functions, which are there or not by what other crates ask of Cedar; what is sealed must not depend on it.

use core::iter::Peekable;
use core::str::CharIndices;

use holdfast_shared::limits::{
    USE_POLICIES_MAX, USE_POLICY_COMMAS_MAX, USE_POLICY_DEPTH_MAX, USE_POLICY_LIKES_MAX, USE_POLICY_MAX,
    USE_POLICY_OPERATORS_MAX, USE_POLICY_PATH_MAX, USE_POLICY_PATTERN_MAX, USE_POLICY_PATTERNS_MAX,
};

use crate::problem::Problem;

/// Checks the bounds.
pub(crate) fn scan(text: &str) -> Result<(), Problem> {
    if text.len() > USE_POLICY_MAX {
        return Err(Problem::whole(format!("a policy has at most {USE_POLICY_MAX} bytes, not {}", text.len())));
    }
    let mut scanner = Scanner { text, rest: text.char_indices().peekable(), count: Count::default() };
    while let Some((offset, character)) = scanner.rest.next() {
        scanner.take(offset, character).map_err(|message| Problem::at(text, offset, message))?;
    }
    Ok(())
}

struct Scanner<'t> {
    text: &'t str,
    rest: Peekable<CharIndices<'t>>,
    count: Count,
}

#[derive(Default)]
struct Count {
    statements: usize,
    commas: usize,
    patterns: usize,
    likes: usize,
    /// Brackets that are open.
    open: usize,
    /// `if`s of the policy so far.
    conditionals: usize,
    /// Operators of the policy so far.
    operators: usize,
    /// Dots in a row.
    dots: usize,
    /// Whether the next string is a `like`'s.
    pattern_follows: bool,
}

/// Adds one, up to the bound.
fn more(count: &mut usize, max: usize, what: &str) -> Result<(), String> {
    *count = count.saturating_add(1);
    if *count > max { Err(format!("{what}: at most {max}")) } else { Ok(()) }
}

impl Scanner<'_> {
    fn next_is(&mut self, expected: char) -> bool {
        self.rest.next_if(|(_, character)| *character == expected).is_some()
    }

    fn take(&mut self, offset: usize, character: char) -> Result<(), String> {
        match character {
            '/' if self.next_is('/') => {
                while self.rest.next_if(|(_, character)| !matches!(character, '\n' | '\r')).is_some() {}
                return Ok(());
            }
            '.' => {
                more(&mut self.count.dots, USE_POLICY_PATH_MAX, "names in a row with dots between them")?;
                return self.operator();
            }
            'a'..='z' | 'A'..='Z' | '_' => return self.word(offset),
            _ if character.is_whitespace() => return Ok(()),
            _ => self.count.dots = 0,
        }
        match character {
            '"' => self.string(),
            '(' | '[' | '{' => {
                self.count.open = self.count.open.saturating_add(1);
                self.depth()?;
                self.operator()
            }
            ')' | ']' | '}' => {
                self.count.open = self.count.open.saturating_sub(1);
                Ok(())
            }
            ',' => more(&mut self.count.commas, USE_POLICY_COMMAS_MAX, "commas in a policy set"),
            ';' => {
                (self.count.conditionals, self.count.operators) = (0, 0);
                more(&mut self.count.statements, USE_POLICIES_MAX, "policies in a policy set")
            }
            '&' | '|' => {
                self.next_is(character);
                self.operator()
            }
            '!' | '+' | '-' | '*' | '/' | '%' | '=' | '<' | '>' => {
                self.next_is('=');
                self.operator()
            }
            _ => Ok(()),
        }
    }

    fn operator(&mut self) -> Result<(), String> {
        more(&mut self.count.operators, USE_POLICY_OPERATORS_MAX, "operators, accesses and calls in one policy")
    }

    fn depth(&self) -> Result<(), String> {
        let depth = self.count.open.saturating_add(self.count.conditionals);
        if depth > USE_POLICY_DEPTH_MAX {
            return Err(format!("brackets and conditionals inside each other: at most {USE_POLICY_DEPTH_MAX}"));
        }
        Ok(())
    }

    fn word(&mut self, start: usize) -> Result<(), String> {
        let is_word = |(_, character): &(usize, char)| character.is_ascii_alphanumeric() || *character == '_';
        while self.rest.next_if(is_word).is_some() {}
        let end = self.rest.peek().map_or(self.text.len(), |(end, _)| *end);
        match self.text.get(start..end) {
            Some("if") => {
                self.count.conditionals = self.count.conditionals.saturating_add(1);
                self.depth()
            }
            Some("like") => {
                self.count.pattern_follows = true;
                more(&mut self.count.likes, USE_POLICY_LIKES_MAX, "uses of like in a policy set")?;
                self.operator()
            }
            Some("has" | "in" | "is") => self.operator(),
            Some(name @ ("ip" | "decimal" | "datetime" | "duration")) => {
                Err(format!("{name} is an extension of Cedar; the schema has nothing to compare it with"))
            }
            _ => Ok(()),
        }
    }

    fn string(&mut self) -> Result<(), String> {
        let mut characters = 0_usize;
        loop {
            match self.rest.next() {
                // Where Cedar's lexer and this one would disagree about the end of a string, there is no string.
                None => return Err("the string has no end".to_owned()),
                Some((_, '"')) => break,
                Some((_, '\\')) => match self.rest.next() {
                    None | Some((_, '\n')) => return Err("the string has a backslash before a line's end".to_owned()),
                    Some(_) => characters = characters.saturating_add(1),
                },
                Some(_) => characters = characters.saturating_add(1),
            }
        }
        if core::mem::take(&mut self.count.pattern_follows) {
            if characters > USE_POLICY_PATTERN_MAX {
                return Err(format!("a pattern has at most {USE_POLICY_PATTERN_MAX} characters, not {characters}"));
            }
            // An empty one costs a look at the text, too.
            self.count.patterns = self.count.patterns.saturating_add(characters.max(1));
            if self.count.patterns > USE_POLICY_PATTERNS_MAX {
                return Err(format!("all patterns together: at most {USE_POLICY_PATTERNS_MAX} characters"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Option<String> {
        scan(text).err().map(|problem| problem.to_string())
    }

    /// Text of so many of something, how many there may be, and what is said of one more.
    type Bound = (fn(usize) -> String, usize, &'static str);

    #[test]
    fn each_bound_holds_at_its_edge() {
        let table: &[Bound] = &[
            (|count| "(".repeat(count), USE_POLICY_DEPTH_MAX, "inside each other"),
            (|count| "[".repeat(count), USE_POLICY_DEPTH_MAX, "inside each other"),
            (|count| "{".repeat(count), USE_POLICY_DEPTH_MAX, "inside each other"),
            (|count| "if a then b else ".repeat(count), USE_POLICY_DEPTH_MAX, "inside each other"),
            (|count| "()".repeat(count), USE_POLICY_OPERATORS_MAX, "operators"),
            (|count| "a && ".repeat(count), USE_POLICY_OPERATORS_MAX, "operators"),
            (|count| "a||".repeat(count), USE_POLICY_OPERATORS_MAX, "operators"),
            (|count| "!".repeat(count), USE_POLICY_OPERATORS_MAX, "operators"),
            (|count| "a + b - ".repeat(count / 2), USE_POLICY_OPERATORS_MAX, "operators"),
            (|count| "a has b ".repeat(count), USE_POLICY_OPERATORS_MAX, "operators"),
            (|count| "a.b == ".repeat(count / 2), USE_POLICY_OPERATORS_MAX, "operators"),
            (|count| "a.".repeat(count), USE_POLICY_PATH_MAX, "dots"),
            (|count| "a . /* */".replace("/* */", "// x\n").repeat(count), USE_POLICY_PATH_MAX, "dots"),
            (|count| ",".repeat(count), USE_POLICY_COMMAS_MAX, "commas"),
            (|count| "a.b;".repeat(count), USE_POLICIES_MAX, "policies"),
            (
                |count| "like ".repeat(count - count / 2) + ";" + &"like ".repeat(count / 2),
                USE_POLICY_LIKES_MAX,
                "uses of like",
            ),
            (|count| format!("like \"{}\"", "x".repeat(count)), USE_POLICY_PATTERN_MAX, "a pattern"),
            (|count| format!("like // \"\n (\"{}\")", "\\*".repeat(count)), USE_POLICY_PATTERN_MAX, "a pattern"),
        ];
        for (make, max, expected) in table {
            let step = if make(1).is_empty() { 2 } else { 1 };
            assert_eq!(told(&make(*max)), None, "{}", make(1));
            let problem = told(&make(max + step)).unwrap();
            assert!(problem.contains(expected), "{problem}");
        }
        let patterns = |count: usize| format!("like \"{}\"; ", "x".repeat(64)).repeat(count);
        assert_eq!(told(&patterns(USE_POLICY_PATTERNS_MAX / 64)), None);
        assert!(told(&patterns(USE_POLICY_PATTERNS_MAX / 64 + 1)).unwrap().contains("all patterns"));
        assert_eq!(told(&" ".repeat(USE_POLICY_MAX)), None);
        assert!(told(&" ".repeat(USE_POLICY_MAX + 1)).unwrap().contains("65536 bytes"));
        assert!(told(&"\n(".repeat(USE_POLICY_DEPTH_MAX + 1)).unwrap().starts_with("line 26, column 1: "));
    }

    #[test]
    fn strings_and_comments_hide_nothing_and_count_nothing() {
        let many = "(".repeat(100);
        for passes in [
            format!("\"{many}\""),
            format!("\"\\\"{many}\""),
            format!("\"\\\\\" // {many}"),
            format!("// \"\n\"{many}\""),
            format!("// {many}\r\n// {many}"),
            format!("\"//\" // {many}"),
        ] {
            assert_eq!(told(&passes), None, "{passes}");
        }
        for refused in [
            format!("\"\\\"\" {many}"),
            format!("// \"\n{many}"),
            format!("// \"\r{many}"),
            format!("/ / {many}"),
            format!("\"//\" {many}"),
            "\"".to_owned(),
            "\"\\".to_owned(),
            "\"\\\n\"".to_owned(),
        ] {
            assert!(told(&refused).is_some(), "{refused}");
        }
    }
}
