use std::collections::BTreeSet;

use super::*;

#[test]
fn schema_declares_every_command_and_whatever_they_refer_to() {
    let schema = query_qmp_schema();
    let entries = schema.as_array().unwrap();
    let names: BTreeSet<_> = entries
        .iter()
        .map(|entry| entry["name"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), entries.len(), "no name twice");
    for name in Command::NAMES {
        assert!(names.contains(name), "{name}");
    }
    let mut referred = Vec::new();
    references(&schema, &mut referred);
    assert!(referred.len() > 200);
    for name in referred {
        assert!(names.contains(name.as_str()), "{name} is not declared");
    }
}

fn references(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| references(item, out)),
        Value::Object(members) => {
            for (key, value) in members {
                if let ("type" | "arg-type" | "ret-type" | "element-type", Value::String(name)) =
                    (key.as_str(), value)
                {
                    out.push(name.clone());
                }
                references(value, out);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn names_in_the_table_are_unique() {
    let unique: BTreeSet<_> = Command::NAMES.iter().collect();
    assert_eq!(unique.len(), Command::NAMES.len());
}
