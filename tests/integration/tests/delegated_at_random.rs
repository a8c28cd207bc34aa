//! Random trees of sessions, each with a part of the one above under a random envelope: in the kernel, none is ever allowed what one above it
//! is not, and each what all of them are.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;

use integration::language::{PROBE, Random, Rule, model, text};
use integration::{Daemon, LOAD_DEADLINE, Process, enforcer_path, fewer};

/// As many sessions as there can be above one.
const DEEPEST: usize = 8;
const RULES: u64 = 24;

/// A session of a tree.
struct Node {
    rules: Vec<Rule>,
    above: Option<usize>,
    depth: usize,
}

/// A tree in which one branch goes as deep as it can.
fn tree(random: &mut Random, nodes: usize) -> Vec<Node> {
    let mut tree: Vec<Node> = Vec::new();
    for number in 0..nodes {
        let above = match number {
            0 => None,
            _ if number <= DEEPEST => Some(number - 1),
            _ => Some(random.below(number as u64) as usize).filter(|above| tree[*above].depth < DEEPEST),
        };
        // What would be too deep is a branch of the first.
        let above = above.or((number > 0).then_some(0));
        // What nearly all would refuse says little: few of the rules deny.
        let rules = (0..RULES).map(|rule| random.rule(rule)).filter(|rule| !rule.deny || random_keep(rule));
        let rules = rules.map(|rule| Rule { mode: None, ..rule }).chain([everywhere(number)]).collect();
        let depth = above.map_or(0, |above| tree[above].depth + 1);
        tree.push(Node { rules, above, depth });
    }
    tree
}

/// Every third of the deny rules, so that eight levels leave something.
fn random_keep(rule: &Rule) -> bool {
    rule.name.ends_with(['0', '3', '6'])
}

/// All addresses, and nearly all ports.
fn everywhere(number: usize) -> Rule {
    let to = ["127.0.0.0", "198.51.0.0", "2001:db8::"].map(|ip| ip.parse::<IpAddr>().expect("an address"));
    let to = to.into_iter().map(|ip| (ip, if ip.is_ipv4() { 16 } else { 32 })).collect();
    let first = [1, 2, 79, 80][number % 4];
    Rule {
        name: "wide".to_owned(),
        deny: false,
        mode: None,
        protocol: "udp",
        to,
        ports: vec![(first, 65_535)],
    }
}

#[test]
fn none_is_allowed_what_one_above_it_is_not() {
    let mut random = Random::seeded();
    let daemon = Daemon::start();
    let destinations_each = fewer(200, 40) as usize;
    let (mut refused, mut allowed) = (0, 0);
    for number in 0..fewer(4, 1) {
        let tree = tree(&mut random, 14);
        let destinations: Vec<(IpAddr, u16)> =
            (0..destinations_each).map(|_| (random.address(), random.port())).collect();
        let place = |what: &str| daemon.layout().file(&format!("{what}-{number}"));
        let lines = destinations.iter().map(|(address, port)| format!("{address} {port}\n"));
        fs::write(place("destinations"), lines.collect::<String>()).expect("the directory is ours");
        let agent = |node: usize| format!("agent-{number}-{node}");
        // Each tries everything, and then begins those below it, one after another.
        for (at, node) in tree.iter().enumerate().rev() {
            let mut script = format!(
                "python3 -c '{PROBE}' < {} > {}\n",
                place("destinations").display(),
                place(&format!("answers-{at}")).display()
            );
            for (below, _) in tree.iter().enumerate().filter(|(_, below)| below.above == Some(at)) {
                writeln!(
                    script,
                    "{} run --clip --envelope {} -- sh {} || exit 1",
                    enforcer_path().display(),
                    place(&format!("envelope-{below}")).display(),
                    place(&format!("script-{below}")).display()
                )
                .expect("text grows");
            }
            let envelope = text(&agent(at), "enforce", &node.rules);
            fs::write(place(&format!("envelope-{at}")), envelope).expect("the directory is ours");
            fs::write(place(&format!("script-{at}")), script).expect("the directory is ours");
        }
        let mut run = daemon.layout().command(&["run", "--envelope"]);
        run.arg(place("envelope-0")).args(["--", "sh"]).arg(place("script-0"));
        Process::spawn(run).finish(LOAD_DEADLINE).success();
        for at in 0..tree.len() {
            let answers = fs::read_to_string(place(&format!("answers-{at}"))).expect("it was written");
            assert_eq!(answers.lines().count(), destinations.len(), "{}", agent(at));
            for (destination, answer) in destinations.iter().zip(answers.lines()) {
                let path = std::iter::successors(Some(at), |at| tree[*at].above);
                let mut path = path.map(|at| model("enforce", &tree[at].rules, *destination).0 == "allow");
                let expected = if path.all(|allows| allows) { "passed" } else { "refused" };
                assert_eq!(answer, expected, "{destination:?} of {}", agent(at));
                if expected == "passed" { allowed += 1 } else { refused += 1 }
            }
        }
    }
    let all = allowed + refused;
    assert!(allowed > all / 50 && refused > all / 20, "{allowed} of {all} allowed: this says little");
    daemon.wait_idle();
}
