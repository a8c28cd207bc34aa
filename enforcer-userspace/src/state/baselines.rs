//! What agents have done so far: a file for each, and a list of those that there are, so that one that is gone is missed.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use super::{StateError, make_dir, replace};
use crate::{detect::Baseline, exit::one_line, path_error::PathError};

/// Longer than any that is written: that of an agent has a bound.
const MAX_BYTES: u64 = 64 << 20;
const LIST: &str = "list";
const EXTENSION: &str = "baseline";

/// The directory of them.
#[derive(Debug)]
pub(crate) struct BaselineFiles {
    dir: PathBuf,
    listed: BTreeSet<String>,
    /// Of what was written last.
    generation: u64,
}

/// What was found when they were opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) files: BaselineFiles,
    pub(crate) baselines: Vec<(String, Baseline)>,
    /// What is not as it was left, in words.
    pub(crate) tampered: Vec<String>,
}

impl BaselineFiles {
    /// Makes the directory, for root alone, and reads what is in it. What cannot be read is as good as gone, and said.
    pub(crate) fn open(dir: &Path) -> Result<Opened, StateError> {
        make_dir(dir)?;
        let mut files = Self { dir: dir.to_owned(), listed: BTreeSet::new(), generation: 0 };
        let listed = match read(&files.dir.join(LIST)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            read => Some(read.map_err(PathError::at("read", dir))?),
        };
        let mut tampered = Vec::new();
        let mut baselines = Vec::new();
        let mut present = BTreeSet::new();
        for entry in fs::read_dir(dir).map_err(PathError::at("read", dir))? {
            let path = entry.map_err(PathError::at("read", dir))?.path();
            let agent =
                path.extension().is_some_and(|it| it == EXTENSION).then(|| path.file_stem()).flatten();
            let Some(agent) = agent.and_then(|agent| agent.to_str()) else { continue };
            present.insert(agent.to_owned());
            let text = read(&path).map_err(|error| one_line(&error));
            let baseline = text.and_then(|text| {
                Baseline::parse(&String::from_utf8_lossy(&text), agent).map_err(|error| one_line(&error))
            });
            match baseline {
                Ok(baseline) => baselines.push((agent.to_owned(), baseline)),
                Err(why) => {
                    let agent = agent.escape_debug();
                    tampered.push(format!(
                        "the baseline of agent `{agent}` was changed: {why}; it is learned anew"
                    ));
                }
            }
        }
        // The first file is there before the list is.
        if listed.is_none() && present.len() > 1 {
            tampered.push("the list of baselines is gone".to_owned());
        }
        let listed = String::from_utf8_lossy(&listed.unwrap_or_default()).into_owned();
        for gone in listed.lines().filter(|agent| !present.contains(*agent)) {
            let agent = gone.escape_debug();
            tampered.push(format!("the baseline of agent `{agent}` is gone; it is learned anew"));
        }
        files.listed = listed.lines().map(str::to_owned).filter(|agent| present.contains(agent)).collect();
        Ok(Opened { files, baselines, tampered })
    }

    /// From now on nothing is written.
    pub(crate) fn close(&mut self) {
        self.generation = u64::MAX;
    }

    /// Writes some of them down, unless later ones were already; those that could not be, and agents whose file had gone meanwhile.
    pub(crate) fn save(
        &mut self,
        generation: u64,
        texts: Vec<(String, String)>,
    ) -> (Vec<(String, StateError)>, Vec<String>) {
        let (mut failed, mut gone) = (Vec::new(), Vec::new());
        if generation < self.generation {
            return (failed, gone);
        }
        self.generation = generation;
        let before = self.listed.len();
        for (agent, text) in texts {
            let path = self.dir.join(format!("{agent}.{EXTENSION}"));
            if self.listed.contains(&agent) && !path.exists() {
                gone.push(agent.clone());
            }
            match make_dir(&self.dir).and_then(|()| replace(&path, text.as_bytes())) {
                Ok(()) => drop(self.listed.insert(agent)),
                Err(error) => failed.push((agent, error)),
            }
        }
        let list = self.dir.join(LIST);
        if self.listed.len() != before || !list.exists() {
            let text: String = self.listed.iter().map(|agent| format!("{agent}\n")).collect();
            if let Err(error) = replace(&list, text.as_bytes()) {
                failed.push((LIST.to_owned(), error));
            }
        }
        (failed, gone)
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(agent: &str) -> (String, String) {
        (agent.to_owned(), Baseline::new(1).write(agent))
    }

    #[test]
    fn what_is_missing_or_damaged_is_said() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("baselines");
        let open = || BaselineFiles::open(&dir).unwrap();
        let agents = |opened: &Opened| -> Vec<String> {
            let mut agents: Vec<_> = opened.baselines.iter().map(|(agent, _)| agent.clone()).collect();
            agents.sort();
            agents
        };
        let mut files = open().files;
        let (failed, gone) = files.save(1, ["a", "b", "c.d"].map(text).into());
        assert!(failed.is_empty() && gone.is_empty(), "{failed:?} {gone:?}");
        let opened = open();
        assert_eq!((agents(&opened), opened.tampered), (["a", "b", "c.d"].map(str::to_owned).into(), vec![]));

        fs::remove_file(dir.join("a.baseline")).unwrap();
        let (_, gone) = files.save(2, [text("a")].into());
        assert_eq!(gone, ["a"], "while the daemon runs");
        let older = ("b".to_owned(), "older".to_owned());
        files.save(1, [older].into());
        assert_eq!(open().tampered, Vec::<String>::new(), "what is older does not take its place");

        fs::remove_file(dir.join("a.baseline")).unwrap();
        fs::write(dir.join("b.baseline"), b"\xff\xfe").unwrap();
        fs::remove_file(dir.join("c.d.baseline")).unwrap();
        fs::create_dir(dir.join("c.d.baseline")).unwrap();
        let opened = open();
        assert_eq!(agents(&opened), Vec::<String>::new());
        let said = opened.tampered.join("; ");
        for part in ["`b` was changed", "`c.d` was changed", "`a` is gone"] {
            assert!(said.contains(part), "{said}");
        }
        assert_eq!(opened.tampered.len(), 3, "{said}");

        fs::remove_dir(dir.join("c.d.baseline")).unwrap();
        open().files.save(1, ["a", "b"].map(text).into());
        fs::remove_file(dir.join("list")).unwrap();
        assert_eq!(open().tampered, ["the list of baselines is gone"]);
    }
}
