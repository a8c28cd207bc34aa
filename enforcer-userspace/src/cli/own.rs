//! `enforcer whoami` and `enforcer why`: what a session may ask about itself.

use std::fmt::Write as _;

use super::{
    Format, ask, id_in_path, print_json,
    ps::heading,
    text::{self, Colour, colour, harmless},
};
use crate::{
    control::dto,
    exit::{ExitStatus, Failure},
    settings::Settings,
};

#[derive(Debug, clap::Args)]
pub(super) struct WhyArgs {
    /// Ask about this session, from outside; its id, or enough of the beginning of it
    #[arg(value_name = "ID")]
    id: Option<String>,
}

pub(super) fn whoami(settings: &Settings, format: Format) -> Result<ExitStatus, Failure> {
    let whoami: dto::Whoami = ask(settings, async |client| client.get("/v1/self").await)?;
    match format {
        Format::Json => print_json(&whoami)?,
        Format::Text => {
            let mut out = heading(&whoami.session);
            let _infallible = writeln!(out, "  expires in {} s", whoami.expires_in_s);
            for above in &whoami.above {
                let who = format!("{} {} ({})", above.id, above.agent, above.state);
                let _infallible = writeln!(out, "  part of {}", harmless(&who));
            }
            text::print(&out)?;
        }
    }
    Ok(ExitStatus::Ok)
}

pub(super) fn why(settings: &Settings, format: Format, args: &WhyArgs) -> Result<ExitStatus, Failure> {
    let path = match &args.id {
        None => "/v1/self/refusals".to_owned(),
        Some(id) => format!("/v1/sessions/{}/refusals", id_in_path(id)?),
    };
    let answer: dto::Refusals = ask(settings, async |client| client.get(&path).await)?;
    match format {
        Format::Json => print_json(&answer)?,
        Format::Text if answer.refusals.is_empty() => {
            text::print(&format!("nothing was refused since {}\n", answer.since))?;
        }
        Format::Text => {
            let text: Vec<String> = answer.refusals.iter().map(render).collect();
            text::print(&text.join("\n"))?;
        }
    }
    Ok(ExitStatus::Ok)
}

fn render(refusal: &dto::RefusalInfo) -> String {
    let times = if refusal.times == 1 { String::new() } else { format!(", {} times", refusal.times) };
    let who = format!("by {}[{}]{times}", refusal.comm, refusal.pid);
    let last = colour(refusal.last.get(..19).unwrap_or(&refusal.last), Colour::Dim);
    format!(
        "{last} {}\n  {}\n  {}\n",
        harmless(&refusal.explanation),
        harmless(&who),
        harmless(&refusal.advice)
    )
}
