//! What is printed: the daemon's document as it is, or a table of it.
//!
//! Tables read documents leniently, by key: a daemon of another version may send more or fewer keys than this
//! command knows, and a list with a gap is worth more than none.

use clap::{Args, ValueEnum};
use serde_json::Value;
use tabled::builder::Builder;
use tabled::settings::{Padding, Style};

use super::failure::Failure;

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For a person. Columns may change from version to version.
    Table,
    /// For a script: the daemon's document, whose keys stay.
    Json,
}

/// The flag of all commands that list something.
#[derive(Debug, Args)]
pub struct Output {
    /// How to print it
    #[arg(long, short, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub output: Format,
}

impl Output {
    /// Prints a document, by `table` where a table is wanted.
    pub fn show(
        &self,
        document: &Value,
        table: impl FnOnce(&Value) -> String,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let text = match self.output {
            Format::Table => table(document),
            Format::Json => format!("{document:#}\n"),
        };
        out.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Rows under a line of headings, without frames.
pub fn table<const N: usize>(headings: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut builder = Builder::default();
    builder.push_record(headings);
    for row in rows {
        builder.push_record(row);
    }
    let mut table = builder.build();
    table.with(Style::empty()).with(Padding::new(0, 3, 0, 0));
    // The last column is padded too; nobody wants the blanks when copying a line.
    table
        .to_string()
        .lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}

/// The objects of a list, or none where it is no list.
pub fn items(document: &Value) -> &[Value] {
    document.as_array().map_or(&[], Vec::as_slice)
}

/// A value as a cell: `-` where there is none.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        // A message may hold line ends, which would tear the row; control characters would reach the terminal.
        Value::String(text) => text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        other => other.to_string(),
    }
}

/// A name, or the short identifier where the name is not known.
pub fn name_or_id(name: &Value, id: &Value) -> String {
    if name.is_null() { short(id) } else { cell(name) }
}

/// An address and a port as one word, an IPv6 address in brackets.
pub fn socket(address: &Value, port: &Value) -> String {
    let (address, port) = (cell(address), cell(port));
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

/// An identifier cut to the twelve characters that Docker shows.
pub fn short(value: &Value) -> String {
    cell(value).chars().take(12).collect()
}

/// Seconds as a person says them: the two largest units.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{whole} s"),
        (0, 0, _) => format!("{minutes} min {} s", whole % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_has_no_frames_and_no_blanks_at_line_ends() {
        let rows = [
            ["a".to_owned(), "long cell".to_owned()],
            ["bcd".to_owned(), "x".to_owned()],
        ];
        assert_eq!(
            table(["ID", "NAME"], rows),
            "ID    NAME\na     long cell\nbcd   x\n"
        );
    }

    #[test]
    fn a_table_without_rows_is_its_headings() {
        assert_eq!(table(["ID", "NAME"], []), "ID   NAME\n");
    }

    #[test]
    fn cells_are_one_line_and_never_empty() {
        let cells: Vec<String> = [
            json!(null),
            json!(""),
            json!("a\nb\u{1b}[1m"),
            json!(true),
            json!(7),
        ]
        .iter()
        .map(cell)
        .collect();
        assert_eq!(cells, ["-", "-", "a b [1m", "yes", "7"]);
    }
}
