//! The lines that problems show, with `*` for each character of a secret, so that columns stay right. Where there is a
//! tree it says what is one; a text that is not YAML is judged by its look, where rather too much is hidden.

use std::collections::{BTreeMap, BTreeSet};

use super::problem::{Place, Problem, RuleId};
use super::secrets::is_secret;
use super::tree::{Node, Value};
use super::{REDACTED, Source, storable};

/// Characters of a line that are kept.
const LINE_MAX: usize = 2000;
/// Shorter secrets are a part of too much else to be looked for away from their places.
const SECRET_MIN: usize = 4;
/// Bytes searched for secrets, over all lines; beyond that whole lines are hidden.
const SEARCHED_MAX: usize = 1 << 28;

/// Longer lines are not looked at, and hidden.
const LOOKED_MAX: usize = 4 * LINE_MAX;

/// Columns, from 0: the first, and the first that is no longer.
type Columns = (usize, usize);

pub struct Excerpts<'a> {
    /// Lines, and their lengths in characters.
    files: BTreeMap<&'a str, Vec<(&'a str, usize)>>,
    /// By file and line, from 0. What is secret of the files that could be read.
    hidden: BTreeMap<(&'a str, usize), Vec<Columns>>,
    /// The same as texts: an alias, a comment or a copy may have them, too.
    secrets: BTreeSet<String>,
    searched: usize,
    /// The same as `hidden` for a whole file, by its look.
    looks: BTreeMap<&'a str, Vec<Vec<Columns>>>,
    has_tree: bool,
}

impl<'a> Excerpts<'a> {
    pub fn new(sources: &'a [Source], tree: Option<&'a Node>) -> Self {
        let lines = |source: &'a Source| source.text.lines().map(|line| (line, line.chars().count())).collect();
        let files = sources.iter().map(|source| (&*source.file, lines(source))).collect();
        let (hidden, secrets, looks) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        let mut excerpts = Self { files, hidden, secrets, searched: 0, looks, has_tree: tree.is_some() };
        if let Some(tree) = tree {
            excerpts.collect(tree);
        }
        excerpts
    }

    /// Gives a problem its line, if there is one.
    pub fn show(&mut self, problem: &mut Problem) {
        let Some(place) = &problem.place else { return };
        let number = place.line as usize - 1;
        let Some((file, lines)) = self.files.get_key_value(&*place.file) else { return };
        let (file, Some((line, _))) = (*file, lines.get(number).copied()) else { return };
        let mut hidden = self.hidden.get(&(file, number)).cloned().unwrap_or_default();
        if problem.rule == RuleId::Syntax || !self.has_tree {
            let looks = self.looks.entry(file).or_insert_with(|| by_look(lines.iter().map(|(line, _)| *line)));
            hidden.extend(looks.get(number).into_iter().flatten());
            hide_words(problem, line, &hidden);
        }
        self.find(line, &mut hidden);
        problem.source = Some(mask(line, &hidden));
    }

    fn collect(&mut self, node: &'a Node) {
        match &node.value {
            Value::Map(entries) => entries.iter().for_each(|entry| self.collect(&entry.value)),
            Value::Seq(items) => items.iter().for_each(|item| self.collect(item)),
            Value::Text(text) if node.secret => {
                // A reference to the environment is none.
                let mut inline = BTreeSet::new();
                storable::inline(node.written.as_deref().unwrap_or(text), &mut inline);
                if !inline.is_empty() {
                    self.hide(&node.place);
                    let lines = inline.iter().flat_map(|secret| secret.lines()).map(str::trim);
                    self.secrets.extend(lines.filter(|line| line.chars().count() >= SECRET_MIN).map(str::to_owned));
                }
            }
            _ if node.secret => self.hide(&node.place),
            _ => {}
        }
    }

    /// All that a value takes, perhaps over several lines.
    fn hide(&mut self, place: &'a Place) {
        let Some(lines) = self.files.get(&*place.file) else { return };
        let (mut number, mut from, mut rest) =
            (place.line as usize - 1, place.column as usize - 1, place.width as usize);
        while let (Some((_, length)), true) = (lines.get(number), rest > 0) {
            let length = length.saturating_sub(from);
            if from < LINE_MAX {
                self.hidden.entry((&*place.file, number)).or_default().push((from, from + length.min(rest)));
            }
            // And the end of the line.
            (number, from, rest) = (number + 1, 0, rest.saturating_sub(length + 1));
        }
    }

    fn find(&mut self, line: &str, hidden: &mut Vec<Columns>) {
        self.searched = self.searched.saturating_add(line.len().saturating_mul(self.secrets.len()));
        if self.searched > SEARCHED_MAX {
            hidden.push((0, usize::MAX));
            return;
        }
        for secret in &self.secrets {
            for (start, _) in line.match_indices(secret.as_str()) {
                let from = line.get(..start).map_or(0, |before| before.chars().count());
                hidden.push((from, from + secret.chars().count()));
            }
        }
    }
}

/// The line of a problem as it is.
pub fn show_plain(problem: &mut Problem, source: &Source) {
    let line = problem.place.as_ref().and_then(|place| source.text.lines().nth(place.line as usize - 1));
    problem.source = line.map(|line| mask(line, &[]));
}

/// The end of a text that is no longer one, by its look.
pub fn last_line(text: &str) -> String {
    let hidden = by_look(text.split('\n')).pop().unwrap_or_default();
    mask(text.rsplit('\n').next().unwrap_or_default(), &hidden)
}

fn mask(line: &str, hidden: &[Columns]) -> String {
    let is_hidden = |column: usize| hidden.iter().any(|(from, to)| (*from..*to).contains(&column));
    line.chars().take(LINE_MAX).enumerate().map(|(column, c)| if is_hidden(column) { '*' } else { c }).collect()
}

/// What is not YAML is quoted in the message: a tag, the name of an alias.
fn hide_words(problem: &mut Problem, line: &str, hidden: &[Columns]) {
    for (from, to) in hidden {
        let text: String = line.chars().take(*to).skip(*from).collect();
        let words = text.split(|c: char| c.is_whitespace() || "\"'`".contains(c));
        for word in words.filter(|word| word.chars().count() >= SECRET_MIN) {
            problem.message = problem.message.replace(word, REDACTED);
        }
    }
}

/// What the lines before have begun.
#[derive(Clone, Copy, PartialEq)]
enum Open {
    Nothing,
    /// The value of a key at this column, on the lines that are further in; `All` of them, or until keys are seen.
    Value(usize, Extent),
    Quote(char),
}

#[derive(Clone, Copy, PartialEq)]
enum Extent {
    All,
    UntilKeys,
}

/// For each line, what follows a key that names a secret.
fn by_look<'l>(lines: impl Iterator<Item = &'l str>) -> Vec<Vec<Columns>> {
    let mut open = Open::Nothing;
    let look = |line: &str| {
        let line: Vec<char> = line.chars().collect();
        let mut hidden = Vec::new();
        if line.len() > LOOKED_MAX {
            return vec![(0, line.len())];
        }
        let from = match open {
            Open::Nothing => 0,
            Open::Quote(quote) => match end_of_quote(&line, 0, quote) {
                Some(end) => {
                    hidden.push((0, end));
                    open = Open::Nothing;
                    end
                }
                None => {
                    hidden.push((0, line.len()));
                    return hidden;
                }
            },
            Open::Value(column, extent) => {
                let indent = line.iter().take_while(|c| c.is_whitespace()).count();
                let deeper = indent > column || indent == line.len();
                if deeper && (extent == Extent::All || !has_key(&line, indent)) {
                    hidden.push((indent, line.len()));
                    return hidden;
                }
                open = Open::Nothing;
                0
            }
        };
        open = keys(&line, from, &mut hidden).unwrap_or(open);
        hidden
    };
    lines.map(look).collect()
}

/// Hides the values of the keys from a column on; what is still open at the end of the line.
fn keys(line: &[char], mut from: usize, hidden: &mut Vec<Columns>) -> Option<Open> {
    while let Some(colon) = (from..line.len()).find(|at| is_colon(line, *at)) {
        let (start, key) = key_between(line, from, colon);
        from = colon + 1;
        // What follows is the name of a part of a request.
        let names = key == "hashKey" || names_a_cookie(&key, line, start);
        if !is_secret(&key) || names {
            continue;
        }
        let value = (from..line.len()).find(|at| line.get(*at).is_some_and(|c| !c.is_whitespace()));
        let Some(value) = value else { return Some(Open::Value(start, Extent::UntilKeys)) };
        let end = match line.get(value).copied().unwrap_or_default() {
            '#' => return Some(Open::Value(start, Extent::UntilKeys)),
            quote @ ('"' | '\'') => end_of_quote(line, value + 1, quote).ok_or(Open::Quote(quote)),
            '{' | '[' => end_of_collection(line, value).ok_or(Open::Value(start, Extent::All)),
            _ if is_flow(line, start) => (value..line.len())
                .find(|at| line.get(*at).is_some_and(|c| matches!(c, ',' | '}' | ']')))
                .ok_or(Open::Value(start, Extent::All)),
            _ => Err(Open::Value(start, Extent::All)),
        };
        match end {
            Ok(end) => {
                let spaces = line.get(value..end).unwrap_or_default().iter().rev().take_while(|c| c.is_whitespace());
                hidden.push((value, end - spaces.count()));
                from = end;
            }
            Err(open) => {
                hidden.push((value, line.len()));
                return Some(open);
            }
        }
    }
    None
}

/// `cookies:`, and `cookie:` where a value is taken from: what follows is a name.
fn names_a_cookie(key: &str, line: &[char], start: usize) -> bool {
    let taken = || {
        let before: String = line.iter().take(start).collect();
        before.contains("from:") || before.contains("sticky:") || before.contains("hashKey:")
    };
    key == "cookies" || key == "cookie" && taken()
}

/// A colon that ends a key.
fn is_colon(line: &[char], at: usize) -> bool {
    let quoted = at.checked_sub(1).and_then(|before| line.get(before)).is_some_and(|c| matches!(c, '"' | '\''));
    line.get(at) == Some(&':') && (quoted || line.get(at + 1).is_none_or(|c| c.is_whitespace()))
}

fn has_key(line: &[char], from: usize) -> bool {
    let item = line.get(from) == Some(&'-') && line.get(from + 1).is_none_or(|c| c.is_whitespace());
    item || (from..line.len()).any(|at| is_colon(line, at))
}

/// The key before a colon, and where it begins.
fn key_between(line: &[char], from: usize, colon: usize) -> (usize, String) {
    let between = line.get(from..colon).unwrap_or_default();
    let begin = between.iter().rposition(|c| matches!(c, '{' | '[' | ',')).map_or(0, |at| at + 1);
    let is_before = |c: &&char| c.is_whitespace() || matches!(c, '-' | '?');
    let begin = begin + between.iter().skip(begin).take_while(is_before).count();
    let key: String = between.iter().skip(begin).filter(|c| !matches!(c, '"' | '\'')).collect();
    (from + begin, key.trim().to_owned())
}

/// Just behind the quote that ends what begins at `from`.
fn end_of_quote(line: &[char], from: usize, quote: char) -> Option<usize> {
    let mut at = from;
    while let Some(c) = line.get(at) {
        let next = line.get(at + 1);
        match (c, quote) {
            ('\\', '"') => at += 1,
            ('\'', '\'') if next == Some(&'\'') => at += 1,
            _ if *c == quote => return Some(at + 1),
            _ => {}
        }
        at += 1;
    }
    None
}

/// Just behind the bracket that closes the one at `from`.
fn end_of_collection(line: &[char], from: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, c) in line.iter().enumerate().skip(from) {
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return Some(at + 1);
        }
    }
    None
}

/// Whether a bracket before the column is not closed.
fn is_flow(line: &[char], column: usize) -> bool {
    let count = |brackets: [char; 2]| line.iter().take(column).filter(|c| brackets.contains(c)).count();
    count(['{', '[']) > count(['}', ']'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn looks(text: &str, expected: &str) {
        let hidden = by_look(text.lines());
        let shown: Vec<String> = text.lines().zip(&hidden).map(|(line, hidden)| mask(line, hidden)).collect();
        assert_eq!(shown.join("\n"), expected);
    }

    #[test]
    fn what_follows_a_secret_name() {
        for (text, expected) in [
            ("explainToken: ab, c} d", "explainToken: ********"),
            ("{ explainToken: abc, foo: 1", "{ explainToken: ***, foo: 1"),
            ("x: { \"x-key\":\"a, }\", foo: 1", "x: { \"x-key\":******, foo: 1"),
            ("- authorization: 'it''s' # no", "- authorization: ******* # no"),
            ("{ x-key: { prefix: a, b: c }, to: app", "{ x-key: *******************, to: app"),
            ("token: [abc", "token: ****"),
            ("cookies: { env: canary, session: abc }", "cookies: { env: canary, session: *** }"),
            ("from: [{ header: x }, { cookie: env }", "from: [{ header: x }, { cookie: env }"),
            ("set: { cookie: env }", "set: { cookie: *** }"),
            ("to: app # http://key", "to: app # http://key"),
        ] {
            looks(text, expected);
        }
    }

    #[test]
    fn values_over_several_lines() {
        looks("token: |\n  a: b\n  c\nto: app", "token: *\n  ****\n  *\nto: app");
        looks("token:\n  abc\nto: app", "token:\n  ***\nto: app");
        looks("auth:\n  port: 80\n  token: ab\n", "auth:\n  port: 80\n  token: **");
        looks("- token: ab\n  to: app\n", "- token: **\n  to: app");
        looks("token: \"ab\ncd\" # e\nto: f", "token: ***\n*** # e\nto: f");
        looks("token: ab\n  cd", "token: **\n  **");
    }
}
