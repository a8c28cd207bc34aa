//! Which container a session runs in, as container engines name their cgroups.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A container. Its cgroup's name is all that is known of it, and a hint: whoever may make cgroups names them as they like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Container {
    /// 64 hexadecimal digits, as `docker inspect` and `crictl inspect` show it.
    pub(crate) id: String,
    /// The engine that made it, where the name says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) runtime: Option<String>,
    /// The UID of its Kubernetes pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<String>,
}

/// What an engine writes before an id, and its name.
const ENGINES: &[(&str, &str)] = &[
    ("docker", "docker"),
    ("cri-containerd", "containerd"),
    ("nerdctl", "containerd"),
    ("crio", "cri-o"),
    ("libpod", "podman"),
    // With `--cgroups=split`.
    ("libpod-payload", "podman"),
];

const ID_DIGITS: usize = 64;

impl Container {
    /// The innermost container that a cgroup is of: its own, or that of one above.
    pub(crate) fn of_cgroup(cgroup: &str) -> Option<Self> {
        let mut above: Vec<&str> = cgroup.split('/').collect();
        while let Some(name) = above.pop() {
            if let Some((id, runtime)) = named(name, above.last().copied()) {
                let pod = above.iter().rev().find_map(|name| pod(name));
                return Some(Self { id: id.to_owned(), runtime: runtime.map(str::to_owned), pod });
            }
        }
        None
    }
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, runtime, pod } = self;
        let of = runtime.iter().flat_map(|runtime| [" of ", runtime]);
        let in_pod = pod.iter().flat_map(|pod| [", pod ", pod]);
        ["container ", id].into_iter().chain(of).chain(in_pod).try_for_each(|part| f.write_str(part))
    }
}

/// The id and the engine, if it is the name of a container's cgroup: `ENGINE-ID.scope` where systemd manages cgroups; otherwise `ID`
/// below one that is named for the engine or the pod. What has another word before the id is no container: `crio-conmon-ID.scope` is of
/// what looks after one.
fn named<'a>(name: &'a str, above: Option<&str>) -> Option<(&'a str, Option<&'static str>)> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let (engine, id) = match name.rsplit_once('-') {
        Some((engine, id)) => (Some(engine), id),
        None => (above, name),
    };
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let is_id = id.len() == ID_DIGITS && id.bytes().all(is_digit);
    let known = ENGINES.iter().find(|(word, _)| engine == Some(*word)).map(|(_, engine)| *engine);
    let fits = is_id && (known.is_some() || id == name);
    fits.then_some((id, known))
}

/// The pod's UID: `pod` and a UUID, at the end of a slice's name with `_` in place of `-`.
fn pod(name: &str) -> Option<String> {
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let (_, uid) =
        name.rsplit_once("pod").filter(|(before, _)| before.is_empty() || before.ends_with('-'))?;
    let uid = uid.replace('_', "-");
    (uid.len() == 36 && Uuid::try_parse(&uid).is_ok()).then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4ca0b1c7a9e1f6c2d5b8e3f0a1b2c3d4e5f60718293a4b5c6d7e8f9001122334";
    const POD: &str = "0b9a5a3c-1f2e-4d3c-8b7a-695847362514";

    #[test]
    fn cgroups_of_containers_name_them() {
        let underscored = POD.replace('-', "_");
        let besteffort = format!("kubepods-besteffort-pod{underscored}.slice");
        for (cgroup, runtime, pod) in [
            (format!("/system.slice/docker-{ID}.scope"), Some("docker"), None),
            (format!("/docker/{ID}"), Some("docker"), None),
            (format!("/docker/{ID}/init.scope"), Some("docker"), None),
            (format!("/system.slice/nerdctl-{ID}.scope"), Some("containerd"), None),
            (format!("/machine.slice/libpod-{ID}.scope/container"), Some("podman"), None),
            (format!("/libpod_parent/libpod-{ID}"), Some("podman"), None),
            (format!("/system.slice/x.service/libpod-payload-{ID}"), Some("podman"), None),
            (
                format!("/kubepods.slice/kubepods-besteffort.slice/{besteffort}/cri-containerd-{ID}.scope"),
                Some("containerd"),
                Some(POD),
            ),
            (format!("/kubepods.slice/{besteffort}/crio-{ID}.scope"), Some("cri-o"), Some(POD)),
            (format!("/kubepods/burstable/pod{POD}/{ID}"), None, Some(POD)),
            // A static pod is named by a digest.
            (format!("/kubepods/pod{}/{ID}", &ID[..32]), None, None),
            (format!("/docker/{}/docker/{ID}", ID.replace('4', "5")), Some("docker"), None),
        ] {
            let found = Container::of_cgroup(&cgroup).unwrap_or_else(|| panic!("{cgroup}"));
            let expected = Container {
                id: ID.to_owned(),
                runtime: runtime.map(str::to_owned),
                pod: pod.map(str::to_owned),
            };
            assert_eq!(found, expected, "{cgroup}");
        }
    }

    #[test]
    fn other_cgroups_name_none() {
        let upper = ID.to_uppercase();
        for cgroup in [
            String::new(),
            "/".to_owned(),
            "/user.slice/user-0.slice/session-4.scope".to_owned(),
            format!("/machine.slice/libpod-conmon-{ID}.scope"),
            format!("/system.slice/crio-conmon-{ID}.scope"),
            format!("/system.slice/docker-{}.scope", &ID[1..]),
            format!("/system.slice/docker-{ID}0.scope"),
            format!("/system.slice/docker-{upper}.scope"),
            format!("/system.slice/-{ID}.scope"),
            format!("/kubepods/pod{POD}"),
        ] {
            assert_eq!(Container::of_cgroup(&cgroup), None, "{cgroup}");
        }
    }
}
