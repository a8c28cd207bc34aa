//! `cargo xtask veristat`: what verifying each kernel program takes, on each kernel, and whether it is what it was.
//!
//! The programs are loaded by `enforcer doctor`, as a daemon would load them, with `tests/veristat` between it and the kernel:
//! a new program, of whatever kind, is measured as soon as it is loaded. A program near the verifier's limits works until a
//! harmless change, on the one kernel that nobody tried; so what it takes is written down and looked at.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::command::{
    build_tested, cargo, is_root, output, run as run_command, target_dir, tested, workspace,
};
use crate::setup::{self, Need};
use crate::vm::{self, Kernel};

const BASELINE: &str = "tests/baselines/veristat.csv";
const HEADER: &str = "kernel,program,insns,states,peak_states,stack";
/// `aya` tries with a program of this name whether the kernel takes names.
const NOT_OURS: &str = "aya_";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Boot this one in a virtual machine; this host's own, if none is named
    #[arg(long)]
    kernel: Vec<Kernel>,
    /// Fail where a figure is more than a tenth away from the baseline
    #[arg(long, conflicts_with = "update")]
    check: bool,
    /// Write the figures to the baseline
    #[arg(long)]
    update: bool,
}

/// What verifying a program took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cost {
    /// That the verifier went through, over all ways; the kernel's limit is a million.
    insns: u64,
    states: u64,
    peak_states: u64,
    /// Bytes, of all functions together; the kernel's limit is 512.
    stack: u64,
}

/// By kernel (`6.12`) and program.
type Table = BTreeMap<(String, String), Cost>;

pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(is_root(), "loading programs needs root");
    let mut found = Table::new();
    if options.kernel.is_empty() {
        setup::ensure(Need::Build)?;
        build_tested("enforcer-userspace")?;
        found.extend(measure_here()?);
    } else {
        vm::measure(&options.kernel, |kernel, log| {
            found.extend(read(kernel, &fs::read_to_string(log).context("read the verifier's figures")?)?);
            Ok(())
        })?;
    }
    let baseline = read_baseline()?;
    print!("{}", render(&found, &baseline));
    if options.update {
        let kernels: Vec<&str> = found.keys().map(|(kernel, _)| kernel.as_str()).collect();
        let mut table = baseline;
        table.retain(|(kernel, _), _| !kernels.contains(&kernel.as_str()));
        table.extend(found);
        let path = workspace().join(BASELINE);
        fs::write(&path, write(&table)).with_context(|| format!("write `{}`", path.display()))?;
        eprintln!("xtask veristat: `{BASELINE}` is up to date");
        return Ok(());
    }
    if options.check {
        return compare(&found, &baseline);
    }
    Ok(())
}

/// Compares what a machine measured with the baseline.
pub(crate) fn check(kernel: &str, log: &Path) -> Result<()> {
    let text = fs::read_to_string(log).with_context(|| format!("read `{}`", log.display()))?;
    compare(&read(kernel, &text)?, &read_baseline()?)
}

/// On the kernel that runs here. Only kernels that have figures in the baseline are compared.
pub(crate) fn check_here() -> Result<()> {
    let (found, baseline) = (measure_here()?, read_baseline()?);
    let kernel = found.keys().next().map(|(kernel, _)| kernel.clone()).unwrap_or_default();
    if baseline.keys().all(|(known, _)| *known != kernel) {
        eprintln!("veristat: `{BASELINE}` has no figures of this kernel, {kernel}: nothing to compare with");
        return Ok(());
    }
    compare(&found, &baseline)
}

/// The library that goes between a loader and the kernel.
pub(crate) fn library() -> Result<PathBuf> {
    run_command(cargo().args(["build", "--package", "veristat"]))?;
    Ok(target_dir().join("debug/libveristat.so"))
}

fn measure_here() -> Result<Table> {
    let log = target_dir().join("veristat.log");
    if log.exists() {
        fs::remove_file(&log).with_context(|| format!("remove `{}`", log.display()))?;
    }
    let mut doctor = Command::new(tested("enforcer"));
    doctor.arg("doctor").stdin(Stdio::null()).stdout(Stdio::null());
    doctor.env("LD_PRELOAD", library()?).env("VERISTAT_LOG", &log);
    let status = doctor.status().context("start `enforcer doctor`")?;
    // 3: something else is missing here, such as a mounted BPF file system. The programs were tried all the same.
    ensure!(matches!(status.code(), Some(0 | 3)), "`enforcer doctor` ended with {status}");
    let release = output(Command::new("uname").arg("-r"))?;
    let kernel: Vec<&str> = release.split('.').take(2).collect();
    read(&kernel.join("."), &fs::read_to_string(&log).context("no program was loaded")?)
}

/// Reads what `tests/veristat` wrote down.
fn read(kernel: &str, log: &str) -> Result<Table> {
    let mut table = Table::new();
    for part in log.split("program ").skip(1) {
        let (program, text) = part.split_once('\n').context("a program has a log")?;
        if program.starts_with(NOT_OURS) {
            continue;
        }
        let words: Vec<&str> = text.split_whitespace().collect();
        let after = |name: &str| {
            let word = words.iter().skip_while(|word| **word != name).nth(1);
            word.with_context(|| format!("`{program}`: the kernel does not say `{name}`: {text}"))
        };
        let number = |name: &str| after(name)?.parse::<u64>().with_context(|| format!("`{name}`: {text}"));
        let stack = after("depth")?.split('+').map(str::parse::<u64>).sum::<Result<_, _>>();
        let cost = Cost {
            insns: number("processed")?,
            states: number("total_states")?,
            peak_states: number("peak_states")?,
            stack: stack.with_context(|| format!("the stack's depth: {text}"))?,
        };
        table.insert((kernel.to_owned(), program.to_owned()), cost);
    }
    ensure!(!table.is_empty(), "no program was loaded on {kernel}");
    Ok(table)
}

impl Cost {
    const fn figures(&self) -> [(&'static str, u64); 4] {
        [
            ("insns", self.insns),
            ("states", self.states),
            ("peak_states", self.peak_states),
            ("stack", self.stack),
        ]
    }

    /// The figures that are more than a tenth away from those of `baseline`.
    fn changes(&self, baseline: &Self) -> Vec<String> {
        let pairs = self.figures().into_iter().zip(baseline.figures());
        pairs
            .filter(|((_, new), (_, old))| new.abs_diff(*old) * 10 > *old)
            .map(|((name, new), (_, old))| format!("{name} {old} -> {new}"))
            .collect()
    }
}

/// Holds what was found against the baseline, for the kernels that were measured.
fn compare(found: &Table, baseline: &Table) -> Result<()> {
    let mut findings = Vec::new();
    for (key, cost) in found {
        let (kernel, program) = key;
        match baseline.get(key) {
            None => findings.push(format!("{kernel}: `{program}` is not in the baseline")),
            Some(known) => {
                let changes = cost.changes(known);
                if !changes.is_empty() {
                    findings.push(format!("{kernel}: `{program}`: {}", changes.join(", ")));
                }
            }
        }
    }
    let measured = |kernel: &String| found.keys().any(|(known, _)| known == kernel);
    let gone = baseline.keys().filter(|key| measured(&key.0) && !found.contains_key(*key));
    findings.extend(gone.map(|(kernel, program)| format!("{kernel}: `{program}` was not loaded")));
    if findings.is_empty() {
        return Ok(());
    }
    bail!(
        "what verifying takes has changed:\n  {}\nhint: if that is as it should be, `cargo xtask veristat --update`, here and with \
         `--kernel 6.1 --kernel 6.12`",
        findings.join("\n  ")
    )
}

fn read_baseline() -> Result<Table> {
    let path = workspace().join(BASELINE);
    let text = fs::read_to_string(&path).with_context(|| format!("read `{}`", path.display()))?;
    parse(&text).with_context(|| format!("read `{BASELINE}`"))
}

fn parse(text: &str) -> Result<Table> {
    let mut lines = text.lines();
    ensure!(lines.next() == Some(HEADER), "the first line is not `{HEADER}`");
    let row = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        let [kernel, program, figures @ ..] = &fields[..] else { bail!("`{line}`") };
        let figures: Vec<u64> =
            figures.iter().map(|it| it.parse()).collect::<Result<_, _>>().context(line.to_owned())?;
        let [insns, states, peak_states, stack] = figures[..] else { bail!("`{line}`") };
        let key = ((*kernel).to_owned(), (*program).to_owned());
        Ok((key, Cost { insns, states, peak_states, stack }))
    };
    lines.map(row).collect()
}

fn write(table: &Table) -> String {
    let mut text = format!("{HEADER}\n");
    for ((kernel, program), cost) in table {
        let figures = cost.figures().map(|(_, figure)| figure.to_string()).join(",");
        writeln!(text, "{kernel},{program},{figures}").expect("text takes any text");
    }
    text
}

/// For people: the figures, and what they were where they differ.
fn render(found: &Table, baseline: &Table) -> String {
    let mut text = format!(
        "{:7} {:16} {:>8} {:>7} {:>7} {:>6}\n",
        "kernel", "program", "insns", "states", "peak", "stack"
    );
    for ((kernel, program), cost) in found {
        let [insns, states, peak, stack] = cost.figures().map(|(_, figure)| figure);
        write!(text, "{kernel:7} {program:16} {insns:8} {states:7} {peak:7} {stack:6}").expect("as above");
        match baseline.get(&(kernel.clone(), program.clone())) {
            None => text += "  new",
            Some(known) if known != cost => {
                let [insns, states, peak, stack] = known.figures().map(|(_, figure)| figure);
                write!(text, "  was {insns} {states} {peak} {stack}").expect("as above");
            }
            Some(_) => {}
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux 6.1 and 6.18 write it.
    const LOG: &str = "program aya_name_check\nverification time 33 usec\nstack depth 0\n\
        processed 2 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0\n\n\
        program track_fork\nverification time 1975 usec\nstack depth 72+8\n\
        processed 568 insns (limit 1000000) max_states_per_insn 2 total_states 32 peak_states 30 mark_read 0\n\n";

    fn table(rows: &str) -> Table {
        parse(&format!("{HEADER}\n{rows}")).expect("a table")
    }

    #[test]
    fn figures_are_read_from_the_kernels_log() {
        let found = read("6.1", LOG).expect("a log");
        assert_eq!(found, table("6.1,track_fork,568,32,30,80\n"));
        assert_eq!(parse(&write(&found)).expect("a table"), found);
        assert!(read("6.1", "").is_err(), "nothing was loaded");
        assert!(read("6.1", "program a\nstack depth 8\n").is_err(), "a log without figures");
    }

    #[test]
    fn a_change_of_more_than_a_tenth_is_found_and_so_is_a_new_program() {
        let baseline = table("6.1,a,1000,100,50,0\n6.12,a,1,1,1,1\n");
        for (found, says) in [
            ("6.1,a,1100,90,55,0", None),
            ("6.1,a,1101,100,50,0", Some("insns 1000 -> 1101")),
            ("6.1,a,899,100,50,0", Some("insns 1000 -> 899")),
            ("6.1,a,1000,100,50,8", Some("stack 0 -> 8")),
            ("6.1,a,1000,100,50,0\n6.1,b,1,1,1,1", Some("`b` is not in the baseline")),
            ("6.1,b,1,1,1,1", Some("`a` was not loaded")),
        ] {
            let error = compare(&table(found), &baseline).err().map(|error| error.to_string());
            assert_eq!(error.is_some(), says.is_some(), "{found}: {error:?}");
            assert!(error.unwrap_or_default().contains(says.unwrap_or_default()), "{found}");
        }
    }
}
