//! Figures and the tables they are printed in: Markdown for readers, JSON for programs.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// Several samples of one figure.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    sorted: Vec<f64>,
}

/// One cell of a table.
#[derive(Clone, Debug)]
pub(crate) enum Cell {
    Text(String),
    /// A figure with its spread, and how many decimals are worth printing.
    Figure(Figure, usize),
    /// A single number.
    Number(f64, usize),
}

/// A table of figures.
#[derive(Debug)]
pub(crate) struct Table {
    /// What it shows.
    title: &'static str,
    /// How it was measured: what a reader needs to judge it.
    note: String,
    columns: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

/// All tables of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    tables: Vec<Table>,
}

impl Figure {
    /// The figure of these samples.
    pub(crate) fn of(samples: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Self { sorted }
    }

    /// How the samples compare to another contestant's of the same rounds, round by round.
    pub(crate) fn ratios(samples: &[f64], others: &[f64]) -> Self {
        Self::of(samples.iter().zip(others).map(|(one, other)| one / other))
    }

    /// The sample below which a share of all samples lies.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let last = self.sorted.len().saturating_sub(1);
        let at = (share * last as f64).round() as usize;
        self.sorted.get(at).copied().unwrap_or(f64::NAN)
    }

    /// The samples in the middle, without as many of the least as of the greatest.
    pub(crate) fn within(mut self, share: f64) -> Self {
        let outside = (self.sorted.len() as f64 * (1.0 - share) / 2.0).round() as usize;
        self.sorted.truncate(self.sorted.len() - outside);
        self.sorted.drain(..outside);
        self
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl Cell {
    fn markdown(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Figure(figure, decimals) => format!(
                "{:.*} ({:.*}–{:.*})",
                decimals,
                figure.median(),
                decimals,
                figure.quantile(0.0),
                decimals,
                figure.quantile(1.0)
            ),
            Self::Number(number, decimals) => format!("{number:.decimals$}"),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Figure(figure, _) => json!({
                "median": figure.median(), "min": figure.quantile(0.0), "max": figure.quantile(1.0),
                "samples": figure.sorted.len(),
            }),
            Self::Number(number, _) => json!(number),
        }
    }
}

impl Table {
    pub(crate) fn new(title: &'static str, note: impl Into<String>, columns: &[&str]) -> Self {
        Self {
            title,
            note: note.into(),
            columns: columns.iter().map(|&column| column.to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, row: Vec<Cell>) {
        debug_assert_eq!(row.len(), self.columns.len());
        self.rows.push(row);
    }

    /// Prints the table in Markdown.
    pub(crate) fn print(&self) {
        println!(
            "### {}\n\n{}\n\n| {} |",
            self.title,
            self.note,
            self.columns.join(" | ")
        );
        println!("|{}", "---|".repeat(self.columns.len()));
        for row in &self.rows {
            let cells: Vec<String> = row.iter().map(Cell::markdown).collect();
            println!("| {} |", cells.join(" | "));
        }
        println!();
    }

    fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let cells = self.columns.iter().cloned().zip(row.iter().map(Cell::json));
                Value::Object(cells.collect())
            })
            .collect();
        json!({"title": self.title, "note": self.note, "rows": rows})
    }
}

impl Report {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A report of tables that are printed right away.
    pub(crate) fn of(tables: Vec<Table>) -> Self {
        tables.iter().for_each(Table::print);
        Self { tables }
    }

    pub(crate) fn extend(&mut self, tables: Vec<Table>) {
        self.tables.extend(tables);
    }

    /// Writes the report as JSON, if a file is given.
    pub(crate) fn write(&self, path: Option<&Path>) -> Result<()> {
        let Some(path) = path else { return Ok(()) };
        let tables: Vec<Value> = self.tables.iter().map(Table::json).collect();
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let report = json!({
            "kernel": release.trim(),
            "cpus": std::thread::available_parallelism().map_or(0, usize::from),
            "tables": tables,
        });
        fs::write(path, format!("{report:#}\n"))
            .with_context(|| format!("writing {}", path.display()))
    }
}
