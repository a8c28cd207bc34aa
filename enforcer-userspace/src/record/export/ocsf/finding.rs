//! What the daemon has found in events before this one.

use jiff::Timestamp;

use super::{
    super::{id_of, ocsf::objects},
    Event, Host, Object,
};
use crate::record::LineFinding;

/// Each of its events is named by the id that it has in this form.
pub(super) fn add<'a>(object: &mut Object<'a>, event: &'a Event, finding: &'a LineFinding, host: &'a Host) {
    let millis = |text: &str| text.parse::<Timestamp>().ok().map(Timestamp::as_millisecond);
    let (first, last) = (millis(&finding.first), millis(&finding.last));
    let evidence = finding.evidence.iter().filter_map(|evidence| {
        let time = evidence.time.parse().ok()?;
        Some(id_of(host, &evidence.time, time, evidence.sequence).to_string())
    });
    let related: Vec<Object<'_>> = evidence.map(|uid| Object::new().with("uid", uid)).collect();
    let analytic =
        Object::new().with("name", finding.detection.as_ref()).with("type_id", 1).with("type", "Rule");
    let info = Object::new()
        .with("uid", finding.id.as_str())
        .with("title", finding.title.as_str())
        .with("desc", finding.subject.as_deref())
        .with("types", vec![finding.detection.as_ref()])
        .with("analytic", analytic)
        .with("created_time", last)
        .with("first_seen_time", first)
        .with("first_seen_time_dt", first.map(|_| finding.first.as_str()))
        .with("last_seen_time", last)
        .with("last_seen_time_dt", last.map(|_| finding.last.as_str()))
        .with("related_events", related);
    object.add("finding_info", info);
    object.add("count", i64::try_from(finding.count).unwrap_or(i64::MAX));
    object.add("start_time", first);
    object.add("end_time", last);
    object.add("actor", objects::actor(event, objects::Agent::Beside, host));
    let sequences: Vec<_> = finding.evidence.iter().map(|evidence| evidence.sequence).collect();
    let data = Object::new()
        .with("detection", finding.detection.as_ref())
        .with("state", finding.state.as_ref())
        .with("subject", finding.subject.as_deref())
        .with("sequences", sequences);
    let agent = event.session.as_ref().map(|session| objects::ai_agent(session, host));
    let process = event.process.is_some().then(|| objects::process(event, None));
    object.add(
        "evidences",
        vec![Object::new().with("process", process).with("data", data).with("ai_agent", agent)],
    );
}
