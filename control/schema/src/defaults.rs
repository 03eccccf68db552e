//! Values the server fills in, as upstream does for each kind.

use serde_json::Value;

use crate::Resource;

/// Fills in the defaults of an object.
pub fn apply(res: &Resource, object: &mut Value) {
    let _ = (res, object);
}
