//! What is said of a session when it begins, by `run` and by `register`.

use crate::{control::dto, session::Context};

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "What is said of the session, fixed for its life")]
pub(super) struct SaidArgs {
    /// For whom it is: another owner than the envelope's is refused
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// What it is to do, such as the number of a ticket; is in all its records
    #[arg(long, value_name = "TEXT")]
    task: Option<String>,
    /// What set it off, such as a schedule or a message; is in all its records
    #[arg(long, value_name = "TEXT")]
    trigger: Option<String>,
    /// A label; is in all its records, and in those of its sub-sessions, which cannot change it; may be given several times
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
}

impl SaidArgs {
    pub(super) fn said(&self) -> dto::Said {
        let Self { owner, task, trigger, labels } = self.clone();
        let labels = labels.into_iter().collect();
        dto::Said { owner, context: Context { task, trigger, labels } }
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a name, `=`, and a value")?;
    Ok((name.to_owned(), value.to_owned()))
}
