//! What one envelope allows and another does not, in words.

use super::{Amount, Excess, Region, RuleRef, Service, What, size, ttl};

/// How much is printed of what may be very much.
#[derive(Clone, Copy, Debug)]
struct Most {
    findings: usize,
    /// Of the prefixes, ports and names in each.
    items: usize,
}

const TEXT: Most = Most { findings: 100, items: 16 };

/// What the envelope at `inner` allows and that at `outer` does not, a line each.
pub(crate) fn excess_lines(excess: &[Excess], inner: &str, outer: &str) -> Vec<String> {
    let mut lines: Vec<String> =
        excess.iter().take(TEXT.findings).map(|excess| line(excess, inner, outer)).collect();
    if excess.len() > TEXT.findings {
        lines.push(format!("and {} more", excess.len() - TEXT.findings));
    }
    lines
}

fn line(Excess { what, inner, outer }: &Excess, inner_path: &str, outer_path: &str) -> String {
    let services = |services: &[Service]| {
        let each: Vec<_> = services.iter().map(|service| service_text(service, TEXT.items)).collect();
        each.join("; ")
    };
    let prefixes =
        |region: &Region| First::of(region.prefixes().map(|prefix| prefix.to_string()), TEXT.items).text(" ");
    let some = |items: &[String]| First::of(items.iter().cloned(), TEXT.items).text(" ");
    // What is let through, and how that envelope differs where no rule refuses it.
    let (does, other) = match what {
        What::Destinations(region) => {
            (format!("allows {} -> {}", services(&region.services()), prefixes(region)), None)
        }
        What::Named { names, services: of } => (format!("allows {} -> {}", services(of), some(names)), None),
        What::Listen { region, .. } => {
            (format!("may be reached at {} from {}", services(&region.services()), prefixes(region)), None)
        }
        What::Unix(sockets) => (format!("allows the Unix sockets {}", some(sockets)), None),
        What::AnyUnix => ("allows every Unix socket".to_owned(), Some("restricts them".to_owned())),
        What::Images(images) => {
            let images: Vec<_> = images.iter().map(ToString::to_string).collect();
            (format!("may execute {}", some(&images)), Some("does not list them".to_owned()))
        }
        What::AnyImage => ("may execute everything".to_owned(), Some("lists what may be".to_owned())),
        What::Files(files) => {
            let files: Vec<_> = files.iter().map(ToString::to_string).collect();
            (format!("does not look at {}", some(&files)), Some("does".to_owned()))
        }
        What::OnMismatch { inner, outer } => {
            (format!("has `onMismatch: {}`", inner.name()), Some(format!("says `{}`", outer.name())))
        }
        What::OnFinding { inner, outer } => {
            (format!("has `onFinding: {}`", inner.name()), Some(format!("says `{}`", outer.name())))
        }
        What::Audit => ("lets through what its rules deny".to_owned(), Some("is in enforce mode".to_owned())),
        What::Ttl { inner, outer } => {
            let last = |time: &std::time::Duration| ttl(time.as_secs());
            (format!("sessions last {}", last(inner)), Some(format!("says {}", last(outer))))
        }
        What::Limit { which, inner, outer } => (
            format!("has {} for `{}`", inner.map_or("no limit".to_owned(), amount), which.name()),
            Some(format!("says {}", amount(*outer))),
        ),
        What::Requires(needs) => {
            let needs: Vec<_> = needs.iter().map(|need| format!("`{}`", need.name())).collect();
            (format!("does not require {}", needs.join(", ")), Some("does".to_owned()))
        }
    };
    let subject = match inner {
        Some(RuleRef { name, line }) => format!("{inner_path}:{line}: `{name}` {does}"),
        None if matches!(what, What::Destinations(_)) => format!("{inner_path}: audit mode {does}"),
        None if matches!(what, What::Listen { .. }) => format!("{inner_path}: in audit mode it {does}"),
        None => format!("{inner_path}: {does}"),
    };
    match (outer, other) {
        (Some(RuleRef { name, line }), _) => {
            let some =
                if matches!(what, What::Listen { in_part: true, .. }) { " from some ports" } else { "" };
            format!("{subject}; {outer_path}:{line}: `{name}` denies it{some}")
        }
        (None, Some(other)) => format!("{subject}; {outer_path} {other}"),
        (None, None) => format!("{subject}; no rule of {outer_path} does"),
    }
}

pub(crate) fn amount(amount: Amount) -> String {
    match amount {
        Amount::Count(count) => count.to_string(),
        Amount::Bytes(bytes) => size(bytes),
        Amount::Rate(rate) => rate.to_string(),
    }
}

fn service_text(service: &Service, most: usize) -> String {
    let protocols: Vec<_> = service.protocols.iter().map(|protocol| protocol.name()).collect();
    let ports = First::of(service.ports.iter().map(ToString::to_string), most).text(",");
    if ports.is_empty() { protocols.join("+") } else { format!("{} {ports}", protocols.join("+")) }
}

/// The first of many.
#[derive(Debug)]
pub(crate) struct First {
    pub(crate) items: Vec<String>,
    /// How many there are besides.
    pub(crate) more: usize,
}

impl First {
    pub(crate) fn of(mut items: impl Iterator<Item = String>, most: usize) -> Self {
        let first: Vec<String> = items.by_ref().take(most).collect();
        Self { items: first, more: items.count() }
    }

    fn text(&self, separator: &str) -> String {
        let more = if self.more == 0 { String::new() } else { format!(" and {} more", self.more) };
        format!("{}{more}", self.items.join(separator))
    }
}
