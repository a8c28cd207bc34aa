//! The kernel against the language: random envelopes, random destinations, and for each the verdict and the rule that the
//! language gives, worked out here rule by rule. Connecting a UDP socket sends nothing, so any address may be asked for.

use std::net::IpAddr;

use integration::language::{PROBE, Random, Rule, model, text};
use integration::{DEADLINE, Daemon, LOAD_DEADLINE, fewer};

const ENVELOPES: usize = 10;
const RULES: u64 = 40;

#[test]
fn kernel_agrees_with_the_language() {
    let mut random = Random::seeded();
    let destinations_each = fewer(500, 50) as usize;
    let daemon = Daemon::start();
    let (mut denied, mut let_through) = (0, 0);
    for number in 0..ENVELOPES {
        let agent = format!("agent-{number}");
        let mode = if number % 5 == 4 { "audit" } else { "enforce" };
        let rules: Vec<Rule> = (0..RULES).map(|rule| random.rule(rule)).collect();
        let destinations: Vec<(IpAddr, u16)> =
            (0..destinations_each).map(|_| (random.address(), random.port())).collect();

        let envelope = daemon.layout().write_envelope(text(&agent, mode, &rules)).display().to_string();
        let input = daemon.layout().file(&format!("destinations-{number}"));
        let lines: String =
            destinations.iter().map(|(address, port)| format!("{address} {port}\n")).collect();
        std::fs::write(&input, lines).expect("the directory is ours");
        let script = format!("exec python3 -c '{PROBE}' < {}", input.display());
        let command = ["run", "--envelope", &envelope, "--", "sh", "-c", &script];
        let process = integration::Process::spawn(daemon.layout().command(&command));
        let answers = process.finish(LOAD_DEADLINE).success();

        let decided = daemon.wait_for_events(destinations_each, "all decisions", |event| {
            event.is_of(&agent) && event.kind() == "egress"
        });
        assert_eq!((answers.len(), decided.len()), (destinations_each, destinations_each));
        for ((destination, answer), event) in destinations.iter().zip(&answers).zip(&decided) {
            let (verdict, rule, refused) = model(mode, &rules, *destination);
            let what = format!("{destination:?} in envelope {number}");
            assert_eq!(answer, if refused { "refused" } else { "passed" }, "{what}");
            assert_eq!(event.text("/verdict"), verdict, "{what}");
            assert_eq!(event.at("/refused"), refused, "{what}");
            assert_eq!(event.at("/rule").as_str(), rule, "{what}");
            assert_eq!(event.text("/destination/address"), destination.0.to_canonical().to_string());
            denied += usize::from(refused);
            let_through += usize::from(verdict == "deny" && !refused);
        }
    }
    let all = ENVELOPES * destinations_each;
    assert!(denied > all / 20 && denied < all * 19 / 20, "{denied} of {all} say little");
    assert!(let_through > all / 100, "{let_through} of {all} say little");
    integration::wait_until(DEADLINE, "all sessions have ended", || {
        (daemon.status()["sessions"] == 0).then_some(())
    });
}
