//! What the daemon counts, as OpenMetrics text. Core: numbers come in, text goes out.
//!
//! Labels are names from envelopes and words of ours: never a process, an address or a session, of which there are any number.

#![forbid(unsafe_code)]

mod run_times;

use std::{collections::BTreeMap, fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, NoLabelSet, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};
pub(crate) use run_times::{ProgramTime, RunTimes};
use serde::{Deserialize, Serialize};

/// The media type of what [`encode`] makes.
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Agents that are counted by name. Who may begin sessions can name any number; the others are counted together.
const MOST_AGENTS: usize = 1000;
/// The name of these, which no agent can have.
const OTHERS: &str = "(others)";

/// Decisions that were recorded, by agent, verdict and reason.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdicts(BTreeMap<String, BTreeMap<(&'static str, &'static str), u64>>);

impl Verdicts {
    pub(crate) fn count(&mut self, agent: &str, verdict: &'static str, reason: &'static str) {
        let known = self.0.len() < MOST_AGENTS || self.0.contains_key(agent);
        let agent = if known { agent } else { OTHERS };
        let of_agent = match self.0.get_mut(agent) {
            Some(of_agent) => of_agent,
            None => self.0.entry(agent.to_owned()).or_default(),
        };
        *of_agent.entry((verdict, reason)).or_default() += 1;
    }
}

/// All that is counted, at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) release: &'static str,
    pub(crate) abi: u16,
    pub(crate) kernel: String,
    pub(crate) verdicts: Verdicts,
    /// Sessions that run, by their state.
    pub(crate) sessions: BTreeMap<&'static str, u64>,
    pub(crate) processes: u64,
    /// By name, and whether more than zero means that something went wrong.
    pub(crate) counters: Vec<(&'static str, u64, bool)>,
    /// Where records were lost, and how many.
    pub(crate) lost: Vec<(&'static str, u64)>,
    /// Bytes of the kernel's ring buffer that wait to be read, and how many there can be.
    pub(crate) ring: Option<(u64, u64)>,
    /// Hooks that are needed, and those of them that are attached.
    pub(crate) hooks: (u64, u64),
    pub(crate) guard: &'static str,
    pub(crate) programs: Vec<ProgramTime>,
    pub(crate) run_times: RunTimes,
    pub(crate) sinks: Vec<SinkCounts>,
    /// By detection.
    pub(crate) findings: Vec<(&'static str, u64)>,
}

/// How far a sink is, in events.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SinkCounts {
    pub(crate) name: String,
    /// Events that were taken, or are on their way.
    pub(crate) sent: u64,
    /// Events that were written and not sent yet, or left out.
    pub(crate) behind: u64,
    /// Events that the receiver does not take.
    pub(crate) refused: u64,
    /// Events that were gone before they could be sent.
    pub(crate) lost: u64,
    /// Tries that failed.
    pub(crate) failures: u64,
}

/// The text of OpenMetrics 1.0.
pub(crate) fn encode(snapshot: Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("enforcer");
    registry.register_collector(Box::new(Arc::new(snapshot)));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut out = Out(encoder);
        let info = [("release", self.release), ("abi", &self.abi.to_string()), ("kernel", &self.kernel)];
        out.gauges("build", "What runs here", None, [(info, 1)])?;
        let verdicts = self.verdicts.0.iter().flat_map(|(agent, of_agent)| {
            let line = move |(&(verdict, reason), n): (&(&'static str, &'static str), &u64)| {
                ([("agent", agent.as_str()), ("verdict", verdict), ("reason", reason)], *n)
            };
            of_agent.iter().map(line)
        });
        out.counters("verdicts", "Decisions that were recorded since the daemon started", verdicts)?;
        let sessions = self.sessions.iter().map(|(state, n)| ([("state", *state)], *n));
        out.gauges("sessions", "Sessions that run", None, sessions)?;
        out.gauge("processes", "Processes of sessions", None, self.processes)?;
        let of_kind = |fault: bool, label: &'static str| {
            let wanted = self.counters.iter().filter(move |(.., is_fault)| *is_fault == fault);
            wanted.map(move |(name, n, _)| ([(label, name.strip_prefix("fault_").unwrap_or(name))], *n))
        };
        out.counters(
            "operations",
            "What the kernel programs and the daemon did",
            of_kind(false, "operation"),
        )?;
        out.counters("faults", "What went wrong: any is worth a look", of_kind(true, "fault"))?;
        let lost = self.lost.iter().map(|(place, n)| ([("place", *place)], *n));
        out.counters("records_lost", "Records that are missing, by where they were lost", lost)?;
        if let Some((used, size)) = self.ring {
            let bytes = Some(&Unit::Bytes);
            out.gauge("ring_used", "What waits in the kernel's ring buffer", bytes, used)?;
            out.gauge("ring_size", "What the kernel's ring buffer holds", bytes, size)?;
        }
        let (needed, attached) = self.hooks;
        out.gauge("hooks_needed", "Hooks that enforcement needs", None, needed)?;
        out.gauge("hooks_attached", "Those of them that are attached", None, attached)?;
        let guard =
            ["active", "absent", "broken"].map(|state| ([("state", state)], u64::from(state == self.guard)));
        out.gauges(
            "guard",
            "Whether the guard keeps sessions from others and from enforcement",
            None,
            guard,
        )?;
        let sinks = |of: fn(&SinkCounts) -> u64| {
            self.sinks.iter().map(move |sink| ([("sink", sink.name.as_str())], of(sink)))
        };
        let behind = sinks(|sink| sink.behind);
        out.gauges("sink_behind", "Events that were written and not sent to a sink yet", None, behind)?;
        out.counters(
            "sink_sent",
            "Events that a sink has taken, or that are on their way",
            sinks(|sink| sink.sent),
        )?;
        out.counters("sink_refused", "Events that a sink does not take", sinks(|sink| sink.refused))?;
        let lost = sinks(|sink| sink.lost);
        out.counters("sink_lost", "Events that were gone before they could be sent to a sink", lost)?;
        out.counters("sink_failures", "Tries to send that failed", sinks(|sink| sink.failures))?;
        let findings = self.findings.iter().map(|(detection, n)| ([("detection", *detection)], *n));
        out.counters("findings", "Findings since the daemon started", findings)?;
        out.run_times(&self.run_times)?;
        let misses = self.programs.iter().map(|it| ([("program", it.program)], it.misses));
        let help =
            "Runs of a kernel program that the kernel left out, because it was running on the same CPU";
        out.counters("program_misses", help, misses)
    }
}

/// Where metrics are written to.
struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn gauge(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: u64) -> fmt::Result {
        let metric = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        ConstGauge::new(value.cast_signed()).encode(metric)
    }

    fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(value.cast_signed()).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn run_times(&mut self, times: &RunTimes) -> fmt::Result {
        let help =
            "What runs of a kernel program took that were timed (bpf_stats), each second's at their mean";
        let mut metric =
            self.0.encode_descriptor("program_run", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (program, seconds, runs, buckets) in times.iter() {
            let labels = [("program", program)];
            metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(seconds, runs, &buckets, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn numbers_become_text() {
        let mut verdicts = Verdicts::default();
        for _ in 0..2 {
            verdicts.count("a\"b", "deny", "no-rule");
        }
        let counted = |runs, ns| {
            [ProgramTime { id: 1, program: "egress", runs, time: Duration::from_nanos(ns), misses: 1 }]
        };
        let mut run_times = RunTimes::default();
        run_times.look(&counted(0, 0));
        run_times.look(&counted(4, 2000));
        let text = encode(Snapshot {
            verdicts,
            counters: vec![("allowed", 4, false), ("fault_daemon", 1, true)],
            lost: vec![("ring", 7)],
            ring: Some((8, 16)),
            guard: "absent",
            sinks: vec![SinkCounts {
                name: "siem".to_owned(),
                sent: 10,
                behind: 20,
                refused: 30,
                lost: 40,
                failures: 50,
            }],
            findings: vec![("refusal-burst", 5)],
            programs: counted(4, 2000).into(),
            run_times,
            ..Snapshot::default()
        })
        .unwrap();
        for line in [
            "enforcer_verdicts_total{agent=\"a\\\"b\",verdict=\"deny\",reason=\"no-rule\"} 2",
            "enforcer_operations_total{operation=\"allowed\"} 4",
            "enforcer_faults_total{fault=\"daemon\"} 1",
            "enforcer_records_lost_total{place=\"ring\"} 7",
            "enforcer_ring_used_bytes 8",
            "enforcer_guard{state=\"absent\"} 1",
            "enforcer_sink_sent_total{sink=\"siem\"} 10",
            "enforcer_sink_behind{sink=\"siem\"} 20",
            "enforcer_sink_refused_total{sink=\"siem\"} 30",
            "enforcer_sink_lost_total{sink=\"siem\"} 40",
            "enforcer_sink_failures_total{sink=\"siem\"} 50",
            "enforcer_findings_total{detection=\"refusal-burst\"} 5",
            "enforcer_program_run_seconds_count{program=\"egress\"} 4",
            "enforcer_program_misses_total{program=\"egress\"} 1",
            "enforcer_program_run_seconds_sum{program=\"egress\"} 0.000002",
            "enforcer_program_run_seconds_bucket{le=\"2e-7\",program=\"egress\"} 0",
            "enforcer_program_run_seconds_bucket{le=\"5e-7\",program=\"egress\"} 4",
            "enforcer_program_run_seconds_bucket{le=\"+Inf\",program=\"egress\"} 4",
            "# EOF",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn agents_without_number_are_counted_together() {
        let mut verdicts = Verdicts::default();
        for n in 0..MOST_AGENTS + 10 {
            verdicts.count(&format!("agent-{n}"), "deny", "no-rule");
        }
        assert_eq!(verdicts.0.len(), MOST_AGENTS + 1);
        assert_eq!(verdicts.0[OTHERS][&("deny", "no-rule")], 10);
    }
}
