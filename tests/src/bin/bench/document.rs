//! The documents that hold what was measured. A part writes its own section and leaves the others alone.

use std::fs;
use std::path::Path;

/// Names the document to write to. Without it nothing is written, only printed.
pub const WRITE: &str = "TOMBOLO_BENCH_WRITE";

/// Writes a part's section in the place of what stands there, or behind the others; `title` is for a document that isn't there
/// yet.
pub fn put(title: &str, part: &str, lines: &[String]) {
    let Ok(path) = std::env::var(WRITE) else { return };
    let old = match fs::read_to_string(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => format!(
            "# {title}\n\nEach section is one run of the command that it names, and is written by it.\n"
        ),
        read => read.unwrap_or_else(|e| panic!("reading {path}: {e}")),
    };
    let new = with_section(&old, part, &lines.join("\n"));
    fs::write(Path::new(&path), new).unwrap_or_else(|e| panic!("writing {path}: {e}"));
}

fn with_section(old: &str, part: &str, text: &str) -> String {
    let (begin, end) = (format!("<!-- {part} -->"), format!("<!-- /{part} -->"));
    let section = format!("{begin}\n{}\n{end}", text.trim());
    match (old.find(&begin), old.find(&end)) {
        (Some(from), Some(to)) if from < to => {
            format!("{}{section}{}", &old[..from], &old[to + end.len()..])
        }
        _ => format!("{}\n\n{section}\n", old.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::with_section;

    #[test]
    fn a_section_takes_the_place_of_the_one_before_and_leaves_the_others() {
        let one = with_section("# Head\n", "a", "first");
        let two = with_section(&one, "b", "second");
        let again = with_section(&two, "a", "third\n");
        assert_eq!(
            again,
            "# Head\n\n<!-- a -->\nthird\n<!-- /a -->\n\n<!-- b -->\nsecond\n<!-- /b -->\n"
        );
    }
}
