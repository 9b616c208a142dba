//! The pages, and the commands in them.
//!
//! A block of a page is what stands between fences that say `console` (lines with a prompt are commands, others what they print) or `sh`
//! (all of it is a script). Assumes: shell as it is written in the pages; what it does not know of a shell makes a test fail.

use std::fs;
use std::path::{Path, PathBuf};

/// Commands in a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// From the repository's folder on.
    pub page: String,
    /// Where the block begins, counted from 1.
    pub line: usize,
    /// Whether all of it is a script, without prompts.
    pub is_script: bool,
    /// The commands, with their continuations.
    pub commands: Vec<Command>,
}

/// A command, and what the page shows that it prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Its text, without the prompt.
    pub text: String,
    /// The lines after it.
    pub printed: Vec<String>,
}

impl Block {
    /// The first command's text.
    #[must_use]
    pub fn first(&self) -> &str {
        self.commands.first().map_or("", |command| &command.text)
    }
}

/// The repository's folder.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The pages that people read: the README and those of `docs`, without what is generated and decision records.
#[must_use]
pub fn pages() -> Vec<String> {
    let mut pages = vec!["README.md".to_owned()];
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if Path::new(&name).extension().is_some_and(|extension| extension == "md") {
            pages.push(format!("docs/{name}"));
        }
    }
    pages.sort();
    pages
}

/// All blocks of a page.
#[must_use]
pub fn blocks(page: &str) -> Vec<Block> {
    let text = fs::read_to_string(root().join(page)).unwrap();
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        let Some(language) = line.trim_start().strip_prefix("```") else { continue };
        let body: Vec<&str> = lines
            .by_ref()
            .map(|(_, line)| line.get(indent..).unwrap_or_default())
            .take_while(|line| !line.starts_with("```"))
            .collect();
        let commands = match language {
            "console" => of_console(&body),
            "sh" => vec![Command { text: body.join("\n"), printed: Vec::new() }],
            _ => continue,
        };
        assert!(!commands.is_empty(), "{page}:{}: no commands", index + 1);
        found.push(Block { page: page.to_owned(), line: index + 1, is_script: language == "sh", commands });
    }
    found
}

/// The lines of a page that stand outside of fences: page, line counted from 1, text. The blocks between fences of other languages are
/// outside too, so that no command hides there.
#[must_use]
pub fn outside(page: &str) -> Vec<(String, usize, String)> {
    let text = fs::read_to_string(root().join(page)).unwrap();
    let mut fence = None;
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            fence = if fence.is_some() { None } else { Some(matches!(language, "console" | "sh")) };
        } else if fence != Some(true) {
            found.push((page.to_owned(), index + 1, line.to_owned()));
        }
    }
    found
}

/// What stands in a page's sentences between backticks: page, line counted from 1, text.
#[must_use]
pub fn in_sentences(page: &str) -> Vec<(String, usize, String)> {
    let lines = outside(page);
    let mut found = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (page, number, line) in &lines {
        // A paragraph ends what is open: it was no quotation.
        if line.trim().is_empty() {
            open = None;
        }
        for (index, part) in line.split('`').enumerate() {
            if index > 0 {
                match open.take() {
                    Some((line, text)) => found.push((page.clone(), line, text)),
                    None => open = Some((*number, String::new())),
                }
            }
            if let Some((_, text)) = &mut open {
                if index == 0 {
                    text.push(' ');
                }
                *text += if index == 0 { part.trim_start() } else { part };
            }
        }
    }
    found
}

fn of_console(body: &[&str]) -> Vec<Command> {
    let mut commands: Vec<Command> = Vec::new();
    let mut goes_on = false;
    for line in body {
        let is_prompt = line.starts_with("$ ") || line.starts_with("# ");
        match commands.last_mut() {
            Some(command) if goes_on => {
                command.text.push('\n');
                command.text += line;
            }
            _ if is_prompt => {
                let text = line.get(2..).unwrap_or_default().to_owned();
                commands.push(Command { text, printed: Vec::new() });
            }
            Some(command) => command.printed.push((*line).to_owned()),
            None => panic!("output before a command: {line}"),
        }
        let is_command = goes_on || is_prompt;
        let end = line.trim_end();
        goes_on = is_command && (end.ends_with('\\') || end.ends_with('|'));
    }
    commands
}

/// The programs that a script runs, each with its words. Comments, redirections and assignments are left out; what is inside `$(…)` and
/// `<(…)` comes as programs of its own.
#[must_use]
pub fn programs(script: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut reader = Reader { rest: script, found: &mut found, words: Vec::new(), here: Vec::new() };
    reader.read();
    found
        .into_iter()
        .map(|words| words.into_iter().skip_while(|word| is_assignment(word)).collect::<Vec<_>>())
        .filter(|words| !words.is_empty())
        .collect()
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    })
}

struct Reader<'a, 'b> {
    rest: &'a str,
    found: &'b mut Vec<Vec<String>>,
    words: Vec<String>,
    /// Words that end documents which begin after this line.
    here: Vec<String>,
}

impl Reader<'_, '_> {
    fn next(&mut self) -> Option<char> {
        let next = self.rest.chars().next()?;
        self.rest = &self.rest[next.len_utf8()..];
        Some(next)
    }

    fn end(&mut self) {
        let words = core::mem::take(&mut self.words);
        if !words.is_empty() {
            self.found.push(words);
        }
    }

    fn read(&mut self) {
        while let Some(first) = self.rest.chars().next() {
            match first {
                '\n' => {
                    self.next();
                    self.end();
                    for word in core::mem::take(&mut self.here) {
                        let end = self.rest.find(&format!("{word}\n")).unwrap_or(self.rest.len());
                        self.rest = self.rest.get(end + word.len()..).unwrap_or_default();
                    }
                }
                ' ' | '\t' => {
                    self.next();
                }
                '\\' if self.rest.starts_with("\\\n") => self.rest = &self.rest[2..],
                '#' => {
                    let end = self.rest.find('\n').unwrap_or(self.rest.len());
                    self.rest = &self.rest[end..];
                }
                '|' | '&' | ';' | '(' | ')' => {
                    self.next();
                    self.end();
                }
                '<' if self.rest.starts_with("<<") => {
                    self.rest = &self.rest[2..];
                    let word = self.word();
                    self.here.push(word);
                }
                '<' | '>' if !self.rest.starts_with("<(") => {
                    while self.rest.starts_with(['<', '>', '&', ' ']) {
                        self.next();
                    }
                    self.word();
                }
                _ => {
                    let word = self.word();
                    // The number before a redirection, and the words of the shell's own that stand before a command.
                    let is_number = word.bytes().all(|byte| byte.is_ascii_digit()) && self.rest.starts_with(['<', '>']);
                    if !is_number && !matches!(word.as_str(), "{" | "}" | "!" | "do" | "done" | "then") {
                        self.words.push(word);
                    }
                }
            }
        }
        self.end();
    }

    /// A word without its quotes.
    fn word(&mut self) -> String {
        let mut word = String::new();
        let mut quote = None;
        while let Some(next) = self.rest.chars().next() {
            match (quote, next) {
                (None, ' ' | '\t' | '\n' | '|' | '&' | ';' | ')' | '>') => break,
                (None, '<') if !self.rest.starts_with("<(") => break,
                (None, '\\') if self.rest.starts_with("\\\n") => break,
                (None, '\'' | '"') => quote = Some(next),
                (Some(open), close) if open == close => quote = None,
                (None | Some('"'), '$') if self.rest.starts_with("$(") => {
                    self.rest = &self.rest[1..];
                    word += "$";
                    self.inner();
                    continue;
                }
                (None, '<') => {
                    self.inner();
                    word += "/dev/fd/63";
                    continue;
                }
                (None | Some('"'), '\\') => {
                    self.next();
                    word.extend(self.rest.chars().next());
                }
                (_, other) => word.push(other),
            }
            self.next();
        }
        word
    }

    /// A script between parentheses, read for itself.
    fn inner(&mut self) {
        let open = self.rest.find('(').unwrap();
        let mut depth = 0;
        let mut close = self.rest.len();
        for (index, character) in self.rest.char_indices().skip(open) {
            match character {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                close = index;
                break;
            }
        }
        let inner = &self.rest[open + 1..close];
        Reader { rest: inner, found: self.found, words: Vec::new(), here: Vec::new() }.read();
        self.rest = self.rest.get(close + 1..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(script: &str) -> Vec<Vec<String>> {
        programs(script)
    }

    #[test]
    fn a_script_is_taken_apart() {
        let table: [(&str, &[&[&str]]); 9] = [
            ("a b 'c d' \"e f\"", &[&["a", "b", "c d", "e f"]]),
            ("a b \\\n    c | d && e; f # g", &[&["a", "b", "c"], &["d"], &["e"], &["f"]]),
            ("X=1 Y=2 a > b 2>> c < d\ne &", &[&["a"], &["e"]]),
            ("a \"$(b c)\" $(d)", &[&["b", "c"], &["d"], &["a", "$", "$"]]),
            ("a fileb://<(b c) -d", &[&["b", "c"], &["a", "fileb:///dev/fd/63", "-d"]]),
            ("cat > x <<EOF\nholdfast no\nEOF\nb", &[&["cat"], &["b"]]),
            ("! a || b", &[&["a"], &["b"]]),
            ("x=$(a b)\nc", &[&["a", "b"], &["c"]]),
            ("{ a; b; } | c", &[&["a"], &["b"], &["c"]]),
        ];
        for (script, expected) in table {
            assert_eq!(words(script), expected, "{script}");
        }
    }

    #[test]
    fn a_console_has_commands_and_what_they_print() {
        let commands = of_console(&["$ a \\", "    b", "1", "2", "$ c |", "  d"]);
        let texts: Vec<_> = commands.iter().map(|command| (command.text.as_str(), command.printed.len())).collect();
        assert_eq!(texts, [("a \\\n    b", 2), ("c |\n  d", 0)]);
    }
}
