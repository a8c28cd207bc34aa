//! Runs the techniques: each outside any session, where it must get out, and in a session, where it must not. One line of JSON
//! for each; then what is not as the catalogue says.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use integration::{DEADLINE, Daemon, Event, Layout, Process, cgroup_root, unique};
use serde::{Deserialize, Serialize};

use crate::bpf_objects::Pinned;
use crate::catalogue::{ALLOWED, TECHNIQUES, Technique};
use crate::far_side::FarSide;
use crate::scene::{Limits, NO_SESSION, Outcome, Place, play};
use crate::sys::Stop;
use crate::world;

/// How long an attempt outside may take. It is what says how long one inside may.
const CONTROL: Limits = Limits { run: Duration::from_secs(20), effect: Duration::from_secs(3) };
/// Nothing is to get out.
const CONTROL_INSIDE: Limits = Limits { run: CONTROL.run, effect: Duration::from_millis(100) };
/// What an attempt inside has in any case, and at most.
const LEAST: Limits = Limits { run: Duration::from_secs(5), effect: Duration::from_millis(500) };
const MOST: Limits = Limits { run: Duration::from_secs(30), effect: Duration::from_secs(3) };

pub(crate) const APPLICABLE: &str = "got out";
pub(crate) const NOT_APPLICABLE: &str = "not applicable";
pub(crate) const GOT_OUT: &str = "got out";
pub(crate) const STOPPED: &str = "stopped";

/// One technique on one kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) kernel: String,
    /// Whether a guard ran in the kernel.
    pub(crate) lsm: bool,
    pub(crate) technique: String,
    /// [`APPLICABLE`] or [`NOT_APPLICABLE`]: what it did outside any session.
    pub(crate) control: String,
    /// Where it is not applicable: what the attempt came to there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
    /// [`STOPPED`] or [`GOT_OUT`]; nothing where it is not applicable.
    pub(crate) outcome: Option<String>,
    /// The operation of the first refusal that was recorded, or what the attacker saw; nothing if it got out.
    pub(crate) stopped_by: Option<String>,
}

/// What one technique came to, before the records are read.
struct Played {
    technique: &'static Technique,
    /// Nothing if it was not made, because the session got out.
    control: Option<Outcome>,
    /// Nothing if the control did not get out.
    session: Option<Outcome>,
    /// The first refusal recorded, if it is known already.
    refusal: Option<String>,
}

/// Runs these techniques; all, if none is named. Returns what is not as declared.
pub(crate) fn run(only: &[String], results: Option<&Path>) -> Result<Vec<String>, Stop> {
    let chosen: Vec<&'static Technique> = TECHNIQUES
        .iter()
        .filter(|technique| only.is_empty() || only.iter().any(|name| name == technique.name))
        .collect();
    if let Some(unknown) = only.iter().find(|name| chosen.iter().all(|technique| technique.name != **name)) {
        return Ok(vec![format!("there is no technique `{unknown}`")]);
    }
    world::enter()?;
    let far_side = FarSide::start()?;
    let cgroup = Cgroup::new();
    let mut daemon = Daemon::start();
    let kernel = kernel();
    let guard = Pinned::in_directory(&daemon.layout().pin_dir).guard;

    let mut problems = Vec::new();
    problems.extend(unusable(&mut daemon, &far_side, &cgroup.0, "first"));
    let mut played = Vec::new();
    for technique in chosen {
        played.push(if technique.own_daemon {
            play_alone(technique, &far_side, &cgroup.0)
        } else {
            play_shared(technique, &mut daemon, &far_side, &cgroup.0)
        });
    }
    problems.extend(unusable(&mut daemon, &far_side, &cgroup.0, "last"));
    far_side.settle();
    daemon.wait_idle();
    let refusals = first_refusals(&daemon.events());
    let lines: Vec<Line> =
        played.iter().map(|played| line(played, &kernel, guard, &far_side, &refusals)).collect();
    write(&lines, results);
    problems.extend(lines.iter().filter_map(problem));
    problems.extend(far_side.lost().map(|count| format!("the sniffer missed {count} packets")));
    Ok(problems)
}

/// Whether a session cannot do what it may: then that it cannot do other things proves nothing.
fn unusable(daemon: &mut Daemon, far_side: &FarSide, cgroup: &Path, which: &str) -> Option<String> {
    let outcome = play(&ALLOWED, Place::InSession, daemon, far_side, cgroup, CONTROL_INSIDE);
    let works = far_side.has_seen_allowed(&outcome.magic);
    (!works).then(|| format!("the {which} session could not do what it may: {}", outcome.last_word()))
}

/// With the daemon that all share.
fn play_shared(
    technique: &'static Technique,
    daemon: &mut Daemon,
    far_side: &FarSide,
    cgroup: &Path,
) -> Played {
    let control = play(technique, Place::Outside, daemon, far_side, cgroup, CONTROL);
    let session = control
        .got_out
        .then(|| play(technique, Place::InSession, daemon, far_side, cgroup, limits_after(&control)));
    Played { technique, control: Some(control), session, refusal: None }
}

/// With a daemon of its own. First in a session, since the control leaves nothing to attack; where the session gets out, that
/// is control enough.
fn play_alone(technique: &'static Technique, far_side: &FarSide, cgroup: &Path) -> Played {
    let mut daemon = Daemon::start();
    let session = play(technique, Place::InSession, &mut daemon, far_side, cgroup, CONTROL);
    let refusal = first_refusals(&recorded(daemon.layout())).remove(technique.name);
    let control =
        (!session.got_out).then(|| play(technique, Place::Outside, &mut daemon, far_side, cgroup, CONTROL));
    daemon.abandon();
    let applicable = control.as_ref().is_none_or(|control| control.got_out);
    Played { technique, session: applicable.then_some(session), control, refusal }
}

/// Ten times what it took without a session, within bounds: what is dropped in silence is waited for that long.
fn limits_after(control: &Outcome) -> Limits {
    Limits {
        run: (control.ran * 10).clamp(LEAST.run, MOST.run),
        effect: (control.waited * 10).clamp(LEAST.effect, MOST.effect),
    }
}

fn line(
    played: &Played,
    kernel: &str,
    guard: bool,
    far_side: &FarSide,
    refusals: &HashMap<String, String>,
) -> Line {
    let Played { technique, control, session, refusal } = played;
    let mut line = Line {
        kernel: kernel.to_owned(),
        lsm: guard,
        technique: technique.name.to_owned(),
        control: APPLICABLE.to_owned(),
        why: None,
        outcome: None,
        stopped_by: None,
    };
    let Some(session) = session else {
        line.control = NOT_APPLICABLE.to_owned();
        line.why = control.as_ref().map(Outcome::last_word);
        return line;
    };
    // Some come late.
    let got_out = session.got_out || far_side.has_seen(&session.magic);
    line.outcome = Some(if got_out { GOT_OUT } else { STOPPED }.to_owned());
    if !got_out {
        let recorded = refusal.as_ref().or_else(|| refusals.get(technique.name));
        line.stopped_by = Some(recorded.cloned().unwrap_or_else(|| session.last_word()));
    }
    line
}

/// What is not as the catalogue says.
fn problem(line: &Line) -> Option<String> {
    let technique = crate::catalogue::find(&line.technique)?;
    let name = technique.name;
    let expected = technique.inapplicable_on(&line.kernel);
    if let Some(by) = &line.stopped_by
        && by.starts_with(NO_SESSION)
        && !technique.may_not_begin
    {
        return Some(format!("{name}: there was no session: {by}"));
    }
    match (&line.outcome, expected, technique.open.reason(line.lsm, &line.kernel)) {
        (None, None, _) => {
            let why = line.why.as_deref().unwrap_or_default();
            Some(format!("{name}: the control did not get out, which is not expected here: {why}"))
        }
        (None, Some(_), _) => None,
        (Some(_), Some(why), _) => Some(format!("{name}: the control got out, though {why}")),
        (Some(outcome), None, None) if outcome == GOT_OUT => Some(format!("{name}: GOT OUT, not declared")),
        (Some(outcome), None, Some(_)) if outcome == STOPPED => {
            let by = line.stopped_by.as_deref().unwrap_or_default();
            Some(format!("{name}: declared open, and stopped ({by})"))
        }
        (Some(_), None, _) => None,
    }
}

/// The operation of the first refusal in each agent's session.
fn first_refusals(events: &[Event]) -> HashMap<String, String> {
    let mut first = HashMap::new();
    for event in events {
        if let (Some(agent), Some(operation)) = (event.agent(), event.refusal()) {
            first.entry(agent.to_owned()).or_insert_with(|| format!("record: {operation}"));
        }
    }
    first
}

/// What is recorded, if there is still a daemon to ask.
fn recorded(layout: &Layout) -> Vec<Event> {
    let finished = Process::spawn(layout.command(&["events", "--format", "json"])).finish(DEADLINE);
    finished.stdout.iter().map(|line| Event::parse(line)).collect()
}

fn write(lines: &[Line], results: Option<&Path>) {
    let mut text = String::new();
    for line in lines {
        text += &serde_json::to_string(line).expect("a line is JSON");
        text.push('\n');
    }
    std::io::stdout().write_all(text.as_bytes()).expect("standard output is open");
    if let Some(path) = results {
        fs::write(path, &text).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    }
}

/// As the results are named: the first two numbers of `uname -r`.
fn kernel() -> String {
    let name = nix::sys::utsname::uname().expect("the kernel has a name");
    let release = name.release().to_string_lossy().into_owned();
    release.split('.').take(2).collect::<Vec<_>>().join(".")
}

/// A cgroup beside the daemon's. Removed on drop.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Self {
        let path = cgroup_root().join(unique("adversary"));
        fs::create_dir(&path).expect("root may make a cgroup");
        Self(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Whoever moved there has been ended; the kernel may take a moment to see it.
        integration::remove_cgroup(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line of this kernel, with what was seen.
    fn seen(technique: &str, lsm: bool, outcome: Option<&str>) -> Option<String> {
        problem(&Line {
            kernel: "6.18".into(),
            lsm,
            technique: technique.into(),
            control: if outcome.is_some() { APPLICABLE } else { NOT_APPLICABLE }.into(),
            why: None,
            outcome: outcome.map(str::to_owned),
            stopped_by: None,
        })
    }

    #[test]
    fn declarations_and_what_is_seen_must_agree() {
        for (technique, lsm, outcome, expect) in [
            ("tcp-connect4", false, Some(STOPPED), None),
            ("tcp-connect4", false, Some(GOT_OUT), Some("not declared")),
            ("tcp-connect4", false, None, Some("not expected here")),
            // Declared where there is no guard.
            ("passed-packet-socket", false, Some(GOT_OUT), None),
            ("passed-packet-socket", false, Some(STOPPED), Some("declared open, and stopped")),
            ("passed-packet-socket", true, Some(GOT_OUT), Some("not declared")),
            ("passed-packet-socket", true, Some(STOPPED), None),
            // Declared everywhere.
            ("relay-allowed", true, Some(GOT_OUT), None),
            ("relay-allowed", true, Some(STOPPED), Some("declared open, and stopped")),
            // Not on this kernel.
            ("sctp", false, None, None),
            ("sctp", false, Some(STOPPED), Some("the control got out")),
        ] {
            let problem = seen(technique, lsm, outcome);
            let as_expected = match (&problem, expect) {
                (Some(problem), Some(part)) => problem.contains(part),
                (problem, expect) => problem.is_none() && expect.is_none(),
            };
            assert!(as_expected, "{technique} {lsm} {outcome:?}: {problem:?}");
        }
    }
}
