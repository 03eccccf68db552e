//! The order of merged lists: the patch decides about its own elements, the live list about all others.

use serde_json::Value;

/// Puts `items` in order: those named by `wanted` in its order, the others in `live` order, and the two interleaved so
/// that an element only the server has keeps its place before the first wanted one that followed it in the live list.
pub(super) fn arrange(
    items: Vec<Value>,
    wanted: &[Value],
    live: &[Value],
    key: Option<&str>,
) -> Vec<Value> {
    let (mut named, mut others): (Vec<Value>, Vec<Value>) = items
        .into_iter()
        .partition(|item| position(wanted, item, key).is_some());
    named.sort_by_key(|item| position(wanted, item, key));
    others.sort_by_key(|item| position(live, item, key));
    interleave(others, named, live, key)
}

fn interleave(
    others: Vec<Value>,
    named: Vec<Value>,
    live: &[Value],
    key: Option<&str>,
) -> Vec<Value> {
    let mut all = Vec::with_capacity(others.len() + named.len());
    let mut others = others.into_iter().peekable();
    for item in named {
        let place = position(live, &item, key);
        while let Some(other) =
            others.next_if(|o| place.is_some() && position(live, o, key) < place)
        {
            all.push(other);
        }
        all.push(item);
    }
    all.extend(others);
    all
}

/// Where a list holds the element with the same key (or the same scalar).
fn position(list: &[Value], item: &Value, key: Option<&str>) -> Option<usize> {
    match key {
        Some(key) => {
            let wanted = item.get(key)?;
            list.iter().position(|other| other.get(key) == Some(wanted))
        }
        None => list.iter().position(|other| other == item),
    }
}
