//! Which of a machine's block nodes are its disks, and what is known of each: pure, from the monitor's answers.

use serde::Deserialize;
use serde_json::Value;

use super::marks::PREFIX;

/// A node as `query-named-block-nodes` tells of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Node {
    pub(super) node_name: String,
    pub(super) drv: String,
    ro: bool,
    file: String,
    image: Image,
    #[serde(default)]
    pub(super) dirty_bitmaps: Vec<Bitmap>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Image {
    virtual_size: u64,
    #[serde(default)]
    format_specific: Value,
}

/// A bitmap of a node.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Bitmap {
    /// Internal ones have none.
    #[serde(default)]
    pub(super) name: String,
    pub(super) recording: bool,
    pub(super) busy: bool,
    #[serde(default)]
    pub(super) inconsistent: bool,
    pub(super) granularity: u32,
    /// Dirty bytes.
    pub(super) count: u64,
}

/// A device as `query-block` tells of it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Device {
    #[serde(default)]
    device: String,
    #[serde(default)]
    qdev: String,
    inserted: Option<Inserted>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Inserted {
    #[serde(default)]
    node_name: String,
    ro: bool,
}

/// A disk of a machine, as it is to be backed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    /// What it is called, by the user or by the machine.
    pub(super) name: String,
    /// Its node.
    pub(super) node: String,
}

/// Drivers that reach files, without a format in them.
const PROTOCOLS: [&str; 4] = ["file", "host_device", "nbd", "null-co"];

impl Node {
    /// Its size in bytes.
    pub(super) fn size(&self) -> u64 {
        self.image.virtual_size
    }

    /// Whether its bitmaps can outlive the machine.
    pub(super) fn keeps_bitmaps(&self) -> bool {
        self.drv == "qcow2" && self.image.format_specific["data"]["compat"] == "1.1"
    }

    /// Its bitmap of this name.
    pub(super) fn bitmap(&self, name: &str) -> Option<&Bitmap> {
        self.dirty_bitmaps.iter().find(|bitmap| bitmap.name == name)
    }
}

impl Device {
    fn name(&self) -> &str {
        if !self.device.is_empty() {
            return &self.device;
        }
        // The path of a device that somebody named holds that name.
        let path = self.qdev.strip_prefix("/machine/peripheral/");
        path.map_or(&self.qdev, |path| path.split('/').next().unwrap_or(path))
    }
}

/// The disks that were asked for, each as a name to be given or none, and a node, a device or its id; without any asked
/// for, all that can be written to.
///
/// # Errors
/// Says which there is not, and which there are.
pub(super) fn choose(
    nodes: &[Node],
    devices: &[Device],
    asked: &[(Option<&str>, &str)],
) -> Result<Vec<Chosen>, String> {
    let all = all_disks(nodes, devices);
    if asked.is_empty() {
        if all.is_empty() {
            return Err("it has no disk that can be written to; name a node".to_owned());
        }
        return Ok(all);
    }
    let find = |word: &str| {
        let node = nodes.iter().find(|node| node.node_name == word);
        let device = devices.iter().find(|device| {
            [device.device.as_str(), device.name(), device.qdev.as_str()].contains(&word)
        });
        let inserted = device.and_then(|device| device.inserted.as_ref());
        node.map(|node| node.node_name.clone())
            .or(inserted.map(|inserted| inserted.node_name.clone()))
    };
    let each = asked.iter().map(|&(name, word)| {
        let node = find(word).ok_or_else(|| {
            let known: Vec<_> = all.iter().map(|disk| disk.name.as_str()).collect();
            format!(
                "it has no disk or node {word:?}; it has {}",
                known.join(", ")
            )
        })?;
        let name = name.unwrap_or(word).to_owned();
        Ok(Chosen { name, node })
    });
    each.collect()
}

/// The devices of an emulator; the nodes of a storage daemon that no other one is made of.
fn all_disks(nodes: &[Node], devices: &[Device]) -> Vec<Chosen> {
    let writable = devices.iter().filter_map(|device| {
        let inserted = device.inserted.as_ref()?;
        (!inserted.ro && !inserted.node_name.is_empty()).then(|| Chosen {
            name: device.name().to_owned(),
            node: inserted.node_name.clone(),
        })
    });
    let writable: Vec<_> = writable.collect();
    if !writable.is_empty() {
        return writable;
    }
    // Those that nobody named are the machine's own, as the filters of jobs are; some are ours.
    let named = |node: &&Node| {
        let name = &node.node_name;
        !node.ro && !name.starts_with('#') && !name.starts_with(PREFIX)
    };
    let is_beneath = |node: &Node| {
        PROTOCOLS.contains(&node.drv.as_str())
            && nodes
                .iter()
                .filter(named)
                .any(|other| other.file == node.file && !PROTOCOLS.contains(&other.drv.as_str()))
    };
    let tops = nodes.iter().filter(named).filter(|node| !is_beneath(node));
    tops.map(|node| Chosen {
        name: node.node_name.clone(),
        node: node.node_name.clone(),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, drv: &str, file: &str, ro: bool) -> Node {
        let node = json!({ "node-name": name, "drv": drv, "file": file, "ro": ro, "image": { "virtual-size": 512 } });
        serde_json::from_value(node).unwrap()
    }

    fn device(value: Value) -> Device {
        serde_json::from_value(value).unwrap()
    }

    fn names(chosen: Result<Vec<Chosen>, String>) -> Vec<(String, String)> {
        let chosen = chosen.unwrap().into_iter();
        chosen.map(|disk| (disk.name, disk.node)).collect()
    }

    fn pair(name: &str, node: &str) -> (String, String) {
        (name.to_owned(), node.to_owned())
    }

    #[test]
    fn a_daemons_disks_are_the_nodes_on_top() {
        let nodes = [
            node("disk0", "qcow2", "/a", false),
            node("file0", "file", "/a", false),
            node("disk1", "file", "/b", false),
            node("#block3", "file", "/c", false),
            node("base", "qcow2", "/d", true),
            node("#block9", "copy-before-write", "/b", false),
            node("cohort-01234567-3-s0", "qcow2", "/e", false),
        ];
        let all = choose(&nodes, &[], &[]);
        assert_eq!(names(all), [pair("disk0", "disk0"), pair("disk1", "disk1")]);
        let one = choose(&nodes, &[], &[(Some("x"), "base"), (None, "disk1")]);
        assert_eq!(names(one), [pair("x", "base"), pair("disk1", "disk1")]);
        let none = choose(&nodes, &[], &[(None, "disk7")]).unwrap_err();
        assert!(
            none.contains("disk7") && none.contains("disk0, disk1"),
            "{none}"
        );
        assert!(choose(&nodes[4..], &[], &[]).is_err());
    }

    #[test]
    fn an_emulators_disks_are_its_devices() {
        let nodes = [
            node("#block7", "qcow2", "/a", false),
            node("n", "raw", "/b", false),
        ];
        let devices = [
            device(json!({ "device": "vda", "inserted": { "node-name": "#block7", "ro": false } })),
            device(
                json!({ "device": "", "qdev": "/machine/peripheral/root/virtio-backend", "inserted": { "node-name": "n", "ro": false } }),
            ),
            device(json!({ "device": "cd", "inserted": { "node-name": "c", "ro": true } })),
            device(json!({ "device": "floppy" })),
        ];
        let all = choose(&nodes, &devices, &[]);
        assert_eq!(names(all), [pair("vda", "#block7"), pair("root", "n")]);
        let one = choose(&nodes, &devices, &[(None, "root"), (Some("a"), "vda")]);
        assert_eq!(names(one), [pair("root", "n"), pair("a", "#block7")]);
        assert!(choose(&nodes, &devices, &[(None, "floppy")]).is_err());
    }
}
