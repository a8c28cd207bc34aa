//! Sessions that hand on parts of themselves, to any depth: none is ever allowed what one above it is not, by the rules as they are
//! written and by the tables that the kernel looks up.

use enforcer_common::decision::{Standing, decide};

use super::super::super::test_support::{envelope, probe, rule};
use super::super::super::{CompiledTable, Envelope, compile};
use super::*;

const NUMBER: u32 = 1;
/// As deep as the kernel lets sub-sessions be.
const DEEPEST: usize = 8;

/// A session: which earlier one it descends from, what it asks for, and whether it wants to be given less than that.
type Asked = (prop::sample::Index, Envelope, bool);

fn asked() -> impl Strategy<Value = Vec<Asked>> {
    let mode = select(vec![Mode::Enforce, Mode::Enforce, Mode::Audit]);
    let rules = prop::collection::vec(rule(), 0..5);
    let one = (
        any::<prop::sample::Index>(),
        (mode, rules).prop_map(|(mode, rules)| envelope(mode, rules)),
        any::<bool>(),
    );
    prop::collection::vec(one, 2..16)
}

fn allows(envelope: &Envelope, destination: &Destination) -> bool {
    let table = CompiledTable::new(NUMBER, &compile(envelope).unwrap());
    !decide(&Standing::undisturbed(NUMBER, envelope.mode), Some(*destination), &&table).is_refused()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_descendant_is_allowed_what_an_ancestor_is_not(
        asked in asked(),
        probes in prop::collection::vec(probe(), 12),
    ) {
        // What each is held to, and the one above it.
        let mut held: Vec<(Envelope, Option<usize>, usize)> = Vec::new();
        for (above, wanted, clip) in asked {
            if held.is_empty() {
                held.push((wanted, None, 0));
                continue;
            }
            let above = above.index(held.len());
            let (outer, _, depth) = &held[above];
            if *depth == DEEPEST {
                continue;
            }
            let (outer, depth) = (outer.clone(), depth + 1);
            let given = if excess(&wanted, &outer).unwrap().is_empty() {
                wanted
            } else if clip {
                intersect(&outer, &wanted).unwrap()
            } else {
                continue;
            };
            held.push((given, Some(above), depth));
        }
        let rules: Vec<Rule> = held.iter().flat_map(|(envelope, ..)| envelope.rules.clone()).collect();
        for destination in probes.iter().map(|probe| probe.destination(&rules)) {
            for (envelope, above, _) in &held {
                let Some((outer, ..)) = above.map(|above| &held[above]) else { continue };
                prop_assert!(
                    !lets_through(envelope, &destination) || lets_through(outer, &destination),
                    "{:?}", destination
                );
                prop_assert!(!allows(envelope, &destination) || allows(outer, &destination), "{:?}", destination);
            }
        }
    }
}
