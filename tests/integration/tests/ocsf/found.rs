//! What was found in the events of the run.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{id, run};

/// A burst of refusals, when it begins and when it is over; its events are named by the ids that they have in this form.
pub(super) fn expect_findings(native: &[Value]) {
    let is_burst = |event: &&Value| event["finding_info"]["types"] == json!(["refusal-burst"]);
    let bursts: Vec<_> = native.iter().filter(is_burst).collect();
    let [begun, over] = bursts[..] else { panic!("one burst: {bursts:?}") };
    assert_eq!([&begun["activity_id"], &over["activity_id"]], [1, 2]);
    assert_eq!(begun["finding_info"]["uid"], over["finding_info"]["uid"]);
    assert_eq!([&begun["count"], &over["count"]], [50, run::BURST]);
    let refused = native.iter().filter(|event| event["class_uid"] == 4001 && event["activity_id"] == 5);
    let refused: BTreeSet<&str> =
        refused.filter(|event| event["actor"]["app_name"] == run::BURSTING).map(id).collect();
    assert_eq!(refused.len(), run::BURST);
    for finding in bursts {
        let related = finding["finding_info"]["related_events"].as_array().expect("a list");
        assert!(
            related.len() == 16
                && related.iter().all(|event| refused.contains(event["uid"].as_str().expect("an id")))
        );
        assert_eq!(finding["actor"]["app_name"], run::BURSTING);
    }
    let is_escape = |event: &&Value| {
        event["finding_info"]["types"] == json!(["escape-sign"])
            && event["metadata"]["event_code"] == "finding"
    };
    let escape = native.iter().find(is_escape).expect("a process was moved");
    assert_eq!([&escape["severity_id"], &escape["activity_id"]], [4, 1]);
}
