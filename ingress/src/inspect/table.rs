//! Views as tables: a column for each field, as wide as its widest value.

use serde::Serialize;
use serde_json::Value;

/// `views` with a line of headings; the columns are the fields that `columns` names.
pub(super) fn table<V: Serialize>(views: &[V], columns: &[&str]) -> String {
    let headings = columns
        .iter()
        .map(|name| name.to_uppercase().replace('_', " "));
    let mut lines = vec![headings.collect::<Vec<_>>()];
    lines.extend(views.iter().map(|view| cells(view, columns)));
    let width = |column: usize| {
        let cells = lines.iter().map(|line| line[column].chars().count());
        cells.max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let line = |cells: &Vec<String>| {
        let padded = cells.iter().zip(&widths);
        let padded = padded.map(|(cell, width)| format!("{cell:width$}"));
        let line = padded.collect::<Vec<_>>().join("  ");
        line.trim_end().to_owned() + "\n"
    };
    lines.iter().map(line).collect()
}

fn cells(view: &impl Serialize, columns: &[&str]) -> Vec<String> {
    // Views are structs with text, numbers and lists, which are all values.
    let view = serde_json::to_value(view).unwrap_or_default();
    columns.iter().map(|name| text(&view[*name])).collect()
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_as_wide_as_their_widest_value() {
        let views = [
            json!({"a": "x", "b_c": 1, "d": null}),
            json!({"a": "longer", "b_c": true, "d": ["p", "q"]}),
        ];
        let expected = "B C  A       D\n1    x       -\nyes  longer  p,q\n";
        assert_eq!(table(&views, &["b_c", "a", "d"]), expected);
        assert_eq!(table::<Value>(&[], &["a"]), "A\n");
    }
}
