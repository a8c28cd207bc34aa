//! One message a line: to a file of one's own, or to standard output.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

use super::{
    FileSink,
    transport::{Message, NotSent, Sent, Transport},
};
use crate::exit::one_line;

pub(super) enum Lines {
    Stdout,
    File { path: PathBuf, open: Option<FileSink> },
}

impl Lines {
    pub(super) const fn to_stdout() -> Self {
        Self::Stdout
    }

    pub(super) const fn to_file(path: PathBuf) -> Self {
        Self::File { path, open: None }
    }
}

impl Transport for Lines {
    fn send(&mut self, batch: &[Message]) -> Result<Sent, NotSent> {
        let lines = batch.iter().map(|message| format!("{}\n", message.text));
        match self {
            Self::Stdout => {
                io::stdout().lock().write_all(lines.collect::<String>().as_bytes())?;
            }
            Self::File { path, open } => {
                // Somebody else may rotate it, too: then its name is another file's, or nobody's.
                let inode = fs::metadata(&*path).map(|metadata| metadata.ino()).ok();
                if open.as_ref().is_some_and(|sink| sink.inode().ok() != inode) {
                    *open = None;
                }
                let sink = match open {
                    Some(sink) => sink,
                    None => {
                        open.insert(FileSink::open(path).map_err(|error| NotSent::later(one_line(&error)))?.0)
                    }
                };
                for line in lines {
                    sink.write(line.as_bytes()).map_err(|error| NotSent::later(one_line(&error)))?;
                }
            }
        }
        Ok(Sent::Taken)
    }
}
