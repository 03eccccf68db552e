//! Text in aligned columns, as kubectl prints it. What is printed here is ASCII, so a character is a column wide and no
//! library is needed that knows of others.

use std::io::{self, Write};

/// What parts two columns.
const GAP: &str = "   ";

/// Rows of text under a header.
pub(super) struct Columns {
    rows: Vec<Vec<String>>,
}

impl Columns {
    /// Nothing but the header.
    pub(super) fn new(header: &[&str]) -> Self {
        Self {
            rows: vec![header.iter().map(ToString::to_string).collect()],
        }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Writes all rows. Spaces end no line.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let widths = self.widths();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:width$}{GAP}"));
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths = Vec::new();
        for row in &self.rows {
            widths.resize(row.len().max(widths.len()), 0);
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        widths
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
