//! How things look: tables, colours, others' words. Pure but for [`Screen`].

use std::io::Write;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;
use tercet_core::{Timestamp, Xid};

use super::Error;
use crate::clock::{Clock as _, SystemClock};
pub(super) use crate::text::{both, iso, relative, span, time_of_day};

/// A point in time as ISO 8601 has it, where 0 stands for never.
pub(super) fn iso_or_none(at_ms: u64) -> Option<String> {
    (at_ms > 0).then(|| iso(at_ms))
}

/// Where a command writes what it found out.
pub(super) struct Screen<'a> {
    out: &'a mut dyn Write,
    /// Whether programs read it.
    pub json: bool,
    /// Whether it may have colours.
    pub color: bool,
    clock: SystemClock,
}

impl<'a> Screen<'a> {
    /// Writes to `out`; ages are those on `clock`.
    pub(super) fn new(out: &'a mut dyn Write, json: bool, color: bool, clock: SystemClock) -> Self {
        Self { out, json, color: color && !json, clock }
    }

    /// Now.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Writes text and ends its line.
    pub(super) fn text(&mut self, text: &str) -> Result<(), Error> {
        writeln!(self.out, "{}", text.trim_end_matches('\n'))?;
        Ok(self.out.flush()?)
    }

    /// Writes a document over several lines.
    pub(super) fn document(&mut self, document: &impl Serialize) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(document).expect("what is written has text for keys");
        self.text(&text)
    }

    /// Writes a document on one line: one of several that follow each other.
    pub(super) fn line(&mut self, document: &impl Serialize) -> Result<(), Error> {
        let text = serde_json::to_string(document).expect("what is written has text for keys");
        self.text(&text)
    }
}

/// An xid in the form with hyphens. What is none is shown as it is.
pub(super) fn xid(bytes: &[u8]) -> String {
    Xid::from_slice(bytes).map_or_else(|| hex(bytes), |xid| xid.to_string())
}

/// Bytes as text.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Others' words on one line: nothing in them can move the cursor, break a table, or turn what follows around.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || turns(c) { ' ' } else { c }).collect()
}

/// Whether a character has no shape and changes the direction or the lines of others: Unicode's bidirectional controls
/// and its separators of lines.
const fn turns(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The same, at most `width` characters.
pub(super) fn short(text: &str, width: usize) -> String {
    let text = one_line(text);
    if text.chars().count() <= width {
        return text;
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// Others' words on lines of at most 80 columns, if their words allow it; all but the first begin with `indent` spaces,
/// which is where the first one begins too.
pub(super) fn wrap(text: &str, indent: usize) -> String {
    let mut wrapped = String::new();
    let mut width = indent;
    for word in one_line(text).split_whitespace() {
        let length = word.chars().count();
        if width > indent && width + 1 + length > 80 {
            wrapped.push_str(&format!("\n{:indent$}", ""));
            width = indent;
        } else if width > indent {
            wrapped.push(' ');
            width += 1;
        }
        wrapped.push_str(word);
        width += length;
    }
    wrapped
}

/// A number with its noun.
pub(super) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// A word in the colour of what it means: good, still going on, or bad.
pub(super) fn paint(word: &str, color: bool) -> String {
    let code = match word {
        "done" | "confirmed" | "passed" | "healthy" => "32",
        "pending" | "trying" | "confirming" | "cancelling" | "logged" | "slow" | "behind" => "33",
        "failed" | "parked" | "stuck" | "absent" => "31",
        "skipped" => "2",
        _ => return word.to_owned(),
    };
    if color { format!("\x1b[{code}m{word}\x1b[0m") } else { word.to_owned() }
}

/// Aligned columns under a header, one line a row, two spaces apart. `painted` is the column of the status, if there is
/// one; no column before it may have characters that are wider than one.
pub(super) fn table(header: &[&str], rows: Vec<Vec<String>>, painted: Option<usize>, color: bool) -> String {
    let words: Vec<String> =
        painted.map_or_else(Vec::new, |column| rows.iter().map(|row| row[column].clone()).collect());
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.to_vec()).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let widths = table.column_max_content_widths();
    let at: usize = widths.iter().take(painted.unwrap_or_default()).map(|width| usize::from(*width) + 2).sum();
    let mut lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    for (line, word) in lines.iter_mut().skip(1).zip(&words) {
        let before: String = line.chars().take(at).collect();
        if let Some(after) = line.get(before.len()..).and_then(|rest| rest.strip_prefix(word.as_str())) {
            *line = format!("{before}{}{after}", paint(word, color));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_words_stay_on_their_line_and_in_their_width() {
        assert_eq!(one_line("sold\nout\x1b[2J"), "sold out [2J");
        assert_eq!(one_line("a\u{202e}b\u{2066}c\u{200f}d"), "a b c d");
        assert_eq!(one_line("שלום"), "שלום", "what is written from the right stays");
        assert_eq!(short("abcdef", 6), "abcdef");
        assert_eq!(short("äbcdefg", 6), "äbcde…");
        assert_eq!(wrap("a b\nc", 75), "a b c");
        assert_eq!(wrap("a b cd", 75), format!("a b\n{}cd", " ".repeat(75)));
        assert_eq!(wrap("abcdefg h", 78), format!("abcdefg\n{}h", " ".repeat(78)));
    }

    #[test]
    fn tables_are_aligned_and_only_the_status_is_painted() {
        let rows = || {
            vec![vec!["stock".into(), "done".into(), "done".into()], vec!["a".into(), "parked".into(), String::new()]]
        };
        let plain = "SERVICE  STATUS  WHY\nstock    done    done\na        parked";
        assert_eq!(table(&["SERVICE", "STATUS", "WHY"], rows(), Some(1), false), plain);
        let painted = "SERVICE  STATUS  WHY\nstock    \x1b[32mdone\x1b[0m    done\na        \x1b[31mparked\x1b[0m";
        assert_eq!(table(&["SERVICE", "STATUS", "WHY"], rows(), Some(1), true), painted);
    }
}
