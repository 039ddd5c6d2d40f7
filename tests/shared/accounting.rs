//! The rule that all tests with traffic hold a daemon to: every segment that came in went out or was
//! dropped, and every drop has a reason.

use serde_json::Value;

/// What breaks the rule in a daemon's answers to `status` and `drops`, if anything does. While packets
/// are under way something always does, so ask until they are through.
pub(crate) fn accounting_gap(status: &Value, drops: &Value) -> Option<String> {
    let direction = |part: &str| {
        let counters = &status["traffic"][part];
        let number = |name: &str| counters[name].as_u64().unwrap_or(u64::MAX);
        let (taken, handed_on, dropped) =
            (number("segments_in"), number("segments_out"), number("drops"));
        if handed_on.checked_add(dropped) != Some(taken) {
            return Some(format!("{part}: segments are missing: {counters}"));
        }
        let lines = drops[part].as_array().into_iter().flatten();
        let reasons: u64 = lines.filter_map(|line| line["count"].as_u64()).sum();
        (reasons != dropped).then(|| format!("{part}: drops without reason: {counters}, {drops}"))
    };
    direction("outbound").or_else(|| direction("inbound"))
}

#[test]
fn a_missing_segment_and_a_drop_without_reason_are_gaps() {
    let status = |taken: u64, dropped: u64| {
        let part = serde_json::json!({"segments_in": taken, "segments_out": 5, "drops": dropped});
        serde_json::json!({"traffic": {"outbound": part, "inbound": part}})
    };
    let lines = serde_json::json!([{"reason": "no_route", "count": 2}]);
    let drops = serde_json::json!({"outbound": lines, "inbound": lines});
    assert_eq!(accounting_gap(&status(7, 2), &drops), None);
    assert!(accounting_gap(&status(8, 2), &drops).is_some(), "a segment is missing");
    assert!(accounting_gap(&status(8, 3), &drops).is_some(), "a drop has no reason");
    assert!(accounting_gap(&Value::Null, &Value::Null).is_some(), "nothing was counted");
}
