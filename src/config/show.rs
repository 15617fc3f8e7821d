//! `ringsync config`: every setting as it holds, and where it comes from.

use serde_json::{Value, json};

use super::settings::Row;

/// One line for each setting.
pub(super) fn words(rows: &[Row]) -> String {
    let width = |of: &dyn Fn(&Row) -> usize| rows.iter().map(of).max().unwrap_or(0);
    let names = width(&|row| row.name.len());
    let values = width(&|row| row.shown.chars().count());
    let lines = rows.iter().map(|row| {
        let Row {
            name,
            shown,
            origin,
            ..
        } = row;
        format!("{name:<names$}  {shown:<values$}  {origin}\n")
    });
    lines.collect()
}

/// One object, a member for each setting.
pub(super) fn json(rows: &[Row]) -> String {
    let members = rows.iter().map(|row| {
        let value = json!({
            "value": row.value,
            "shown": row.shown,
            "source": row.origin.kind(),
            "origin": row.origin.to_string(),
        });
        (row.name.to_owned(), value)
    });
    Value::Object(members.collect()).to_string() + "\n"
}
