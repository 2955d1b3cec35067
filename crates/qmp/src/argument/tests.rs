//! The texts are those of qemu-storage-daemon 10.0.2 for the same arguments.

use serde_json::{Value, json};

use crate::{Command, Error};

fn read(command: &str, arguments: Value) -> Result<Command, Error> {
    let Value::Object(arguments) = arguments else {
        panic!("{arguments} is no object");
    };
    Command::read(command, arguments)
}

#[test]
fn arguments_are_refused_with_the_texts_of_the_reference() {
    #[rustfmt::skip]
    let cases = [
        ("blockdev-add", json!({}), "Parameter 'driver' is missing"),
        ("blockdev-add", json!({"driver": "zz"}), "Parameter 'driver' does not accept value 'zz'"),
        ("blockdev-add", json!({"driver": "raw"}), "Parameter 'file' is missing"),
        ("blockdev-add", json!({"driver": "raw", "file": 1}), "Invalid parameter type for 'file', expected: BlockdevRef"),
        ("blockdev-add", json!({"driver": "raw", "file": null}), "Invalid parameter type for 'file', expected: BlockdevRef"),
        ("blockdev-add", json!({"driver": "raw", "file": {}}), "Parameter 'file.driver' is missing"),
        ("blockdev-add", json!({"driver": "raw", "file": {"driver": "file"}}), "Parameter 'file.filename' is missing"),
        ("blockdev-add", json!({"driver": "raw", "file": {"driver": "file", "filename": 1}}), "Invalid parameter type for 'file.filename', expected: string"),
        ("blockdev-add", json!({"driver": "raw", "file": {"driver": "file", "filename": "x", "zz": 1}}), "Parameter 'file.zz' is unexpected"),
        ("blockdev-add", json!({"driver": "raw", "file": "n", "size": 1.5}), "Invalid parameter type for 'size', expected: integer"),
        ("blockdev-add", json!({"driver": "raw", "file": "n", "read-only": 1}), "Invalid parameter type for 'read-only', expected: boolean"),
        ("blockdev-add", json!({"driver": "raw", "file": "n", "cache": {"direct": 1}}), "Invalid parameter type for 'cache.direct', expected: boolean"),
        ("block-dirty-bitmap-add", json!({"node": "n"}), "Parameter 'name' is missing"),
        ("block-dirty-bitmap-add", json!({"node": "n", "name": "b", "granularity": 1_u64 << 32}), "Parameter 'granularity' expects uint32_t"),
        ("block-dirty-bitmap-add", json!({"node": "n", "name": "b", "granularity": -1}), "Parameter 'granularity' expects uint32_t"),
        ("block-dirty-bitmap-add", json!({"node": "n", "name": "b", "granularity": "1"}), "Parameter 'granularity' expects uint64"),
        ("block-dirty-bitmap-merge", json!({"node": "n", "target": "b", "bitmaps": "x"}), "Invalid parameter type for 'bitmaps', expected: array"),
        ("block-dirty-bitmap-merge", json!({"node": "n", "target": "b", "bitmaps": [1]}), "Invalid parameter type for 'null', expected: BlockDirtyBitmapOrStr"),
        ("block-dirty-bitmap-merge", json!({"node": "n", "target": "b", "bitmaps": [{}]}), "Parameter 'bitmaps[0].node' is missing"),
        ("block-dirty-bitmap-merge", json!({"node": "n", "target": "b", "bitmaps": ["q", {"node": 1, "name": "b"}]}), "Invalid parameter type for 'bitmaps[1].node', expected: string"),
        ("transaction", json!({"actions": [{}]}), "Parameter 'actions[0].type' is missing"),
        ("transaction", json!({"actions": [{"type": "zz"}]}), "Parameter 'type' does not accept value 'zz'"),
        ("transaction", json!({"actions": [{"type": "abort"}]}), "Parameter 'actions[0].data' is missing"),
        ("transaction", json!({"actions": [{"type": "abort", "data": {"x": 1}}]}), "Parameter 'actions[0].data.x' is unexpected"),
        ("transaction", json!({"actions": [{"type": "abort", "data": {}, "z": 1}]}), "Parameter 'actions[0].z' is unexpected"),
        ("blockdev-backup", json!({"device": "n", "target": "t", "sync": "full", "speed": 1_u64 << 63}), "Invalid parameter type for 'speed', expected: integer"),
        ("nbd-server-start", json!({"addr": {"type": "unix", "data": {}}}), "Parameter 'addr.data.path' is missing"),
        ("nbd-server-start", json!({"addr": "x"}), "Invalid parameter type for 'addr', expected: object"),
        ("object-add", json!({"qom-type": "throttle-group", "id": "t", "limits": {"bps-total": "x"}}), "Invalid parameter type for 'limits.bps-total', expected: integer"),
        ("job-pause", json!({"job_id": "q"}), "Parameter 'id' is missing"),
        ("job-pause", json!({"id": "q", "job_id": "q"}), "Parameter 'job_id' is unexpected"),
    ];
    for (command, arguments, text) in cases {
        let refused = read(command, arguments.clone()).unwrap_err();
        assert_eq!(refused.text, text, "{command} {arguments}");
    }
}

#[test]
fn what_is_read_is_written_back() {
    #[rustfmt::skip]
    let cases = [
        ("blockdev-add", json!({"driver": "qcow2", "node-name": "d", "discard": "unmap", "backing": null, "file": {"driver": "file", "filename": "f"}})),
        ("blockdev-add", json!({"driver": "nbd", "node-name": "d", "server": {"type": "unix", "path": "p"}, "export": "e"})),
        ("blockdev-add", json!({"driver": "blkdebug", "image": "n", "set-state": [{"event": "flush_to_disk", "new_state": 2}]})),
        ("block-dirty-bitmap-merge", json!({"node": "n", "target": "t", "bitmaps": ["a", {"node": "m", "name": "b"}]})),
        ("transaction", json!({"actions": [{"type": "abort", "data": {}}], "properties": {"completion-mode": "grouped"}})),
        ("block-export-add", json!({"type": "nbd", "id": "e", "node-name": "n", "bitmaps": ["b"]})),
        ("blockdev-create", json!({"job-id": "j", "options": {"driver": "file", "filename": "f", "size": 5}})),
        ("nbd-server-start", json!({"addr": {"type": "inet", "data": {"host": "h", "port": "1"}}})),
    ];
    for (name, arguments) in cases {
        let command = read(name, arguments.clone()).unwrap();
        assert_eq!((command.name(), command.arguments()), (name, arguments));
    }
}
