//! How the API server changes objects: JSON merge patch (RFC 7386), and Kubernetes' strategic one, in
//! which some lists are merged by a key.

use serde_json::{Map, Value};

/// Lists that a strategic patch merges, with the key that tells their members apart.
const MERGE_KEYS: &[(&str, &str)] =
    &[("conditions", "type"), ("addresses", "type"), ("taints", "key"), ("ownerReferences", "uid")];

pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    for (key, change) in patch {
        let object = as_object(target);
        match change {
            Value::Null => drop(object.remove(key)),
            _ => merge(object.entry(key.clone()).or_insert(Value::Null), change),
        }
    }
}

pub(crate) fn merge_strategically(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    for (key, change) in patch {
        let object = as_object(target);
        let merge_key = MERGE_KEYS.iter().find(|(list, _)| list == key).map(|(_, key)| *key);
        match (change, merge_key) {
            (Value::Null, _) => drop(object.remove(key)),
            (Value::Array(members), Some(merge_key)) => {
                let list = object.entry(key.clone()).or_insert_with(|| Value::Array(Vec::new()));
                merge_list(list, members, merge_key);
            }
            _ => {
                merge_strategically(object.entry(key.clone()).or_insert(Value::Null), change);
            }
        }
    }
}

fn merge_list(list: &mut Value, members: &[Value], key: &str) {
    if !list.is_array() {
        *list = Value::Array(Vec::new());
    }
    let list = list.as_array_mut().unwrap();
    // What is new comes first.
    let mut new = Vec::new();
    for member in members {
        let known = list.iter_mut().find(|known| known[key] == member[key]);
        match (known, member["$patch"] == "delete") {
            (_, true) => list.retain(|known| known[key] != member[key]),
            (Some(known), false) => merge_strategically(known, member),
            (None, false) => new.push(member.clone()),
        }
    }
    list.splice(..0, new);
}

fn as_object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_are_merged_only_strategically() {
        let object = json!({"conditions": [{"type": "A", "x": 1}, {"type": "B"}], "a": {"b": 1}});
        let patch = json!({"conditions": [{"type": "A", "y": 2}, {"type": "C"}], "a": {"b": null}});
        let mut merged = object.clone();
        merge(&mut merged, &patch);
        assert_eq!(merged, json!({"conditions": patch["conditions"], "a": {}}));
        let mut merged = object;
        merge_strategically(&mut merged, &patch);
        let conditions = json!([{"type": "C"}, {"type": "A", "x": 1, "y": 2}, {"type": "B"}]);
        assert_eq!(merged, json!({"conditions": conditions, "a": {}}));
    }
}
