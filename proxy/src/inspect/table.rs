//! Text in aligned columns, as kubectl prints it. What is printed here is ASCII, so a character is a column wide and no
//! library is needed that knows of others.

use std::io::{self, Write};

/// What parts two columns.
const GAP: &str = "   ";

/// What parts two cells before their widths are known; no cell has it.
const MARK: char = '\t';

/// Rows of text under a header.
pub(super) struct Columns {
    /// All rows, each with a mark after each cell and a line's end. One piece of memory, for there may be many rows.
    rows: String,
    widths: Vec<usize>,
}

impl Columns {
    /// Nothing but the header.
    pub(super) fn new(header: &[&str]) -> Self {
        let mut columns = Self {
            rows: String::new(),
            widths: Vec::new(),
        };
        columns.row(header.iter().map(ToString::to_string));
        columns
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        for (column, cell) in cells.into_iter().enumerate() {
            self.widths.resize(self.widths.len().max(column + 1), 0);
            let width = &mut self.widths[column];
            *width = cell.chars().count().max(*width);
            // A name that the daemon did not write may hold anything.
            let breaks = |character: char| character.is_control();
            self.rows.push_str(&cell.replace(breaks, " "));
            self.rows.push(MARK);
        }
        self.rows.push('\n');
    }

    /// Writes all rows. Spaces end no line.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut line = String::new();
        for row in self.rows.lines() {
            line.clear();
            for (cell, width) in row.split(MARK).zip(&self.widths) {
                line.push_str(&format!("{cell:width$}{GAP}"));
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_lines_end_with_text() {
        let mut columns = Columns::new(&["A", "BCD", "E"]);
        columns.row(["long".to_owned(), "x".to_owned(), String::new()]);
        columns.row(["".to_owned(), "".to_owned(), "y".to_owned()]);
        let mut text = Vec::new();
        columns.write(&mut text).expect("a vector takes everything");
        let text = String::from_utf8(text).expect("made of text");
        assert_eq!(text, "A      BCD   E\nlong   x\n             y\n");
    }
}
