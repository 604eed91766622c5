//! The control API of a machine: any bytes that a client may send.

use std::sync::{Arc, OnceLock};

use machine::MachineSpec;
use server::{Registry, Vm};

use crate::Target;

/// Requests, one after the other on a connection.
pub const API: Target = Target {
    name: "control-api",
    about: "what clients send to a machine's control API",
    seeds: || {
        [
            "GET /v1/machine HTTP/1.1\r\nhost: x\r\n\r\nGET /v1/stats HTTP/1.1\r\nhost: x\r\n\r\n",
            "POST /v1/stop?timeout=1 HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}",
            "POST /v1/pause HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            "GET /v1/console HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: guesthouse-console\r\n\r\nls\r",
            "GET /v1/logs?follow=true HTTP/1.1\r\nhost: x\r\n\r\n",
            "GET /v1/events HTTP/1.0\r\nconnection: keep-alive\r\n\r\nGET /metrics HTTP/1.1\r\nhost: x\r\n\r\n",
        ]
        .map(|s| s.as_bytes().to_vec())
        .to_vec()
    },
    words: &[
        "GET ",
        "POST ",
        "PUT ",
        " HTTP/1.1\r\n",
        "\r\n\r\n",
        "/v1/machine",
        "/v1/resume",
        "/v1/kill",
        "/v1/logs",
        "/v1/openapi.json",
        "?timeout=",
        "?follow=",
        "%00",
        "..",
        "content-length: ",
        "transfer-encoding: chunked\r\n",
        "expect: 100-continue\r\n",
        "connection: upgrade\r\n",
        "upgrade: guesthouse-console\r\n",
        "ffffffff\r\n",
        "-1",
        "18446744073709551616",
    ],
    run,
};

/// The machine that all inputs talk to: one that is being made.
fn vm() -> &'static Arc<Vm> {
    static VM: OnceLock<Arc<Vm>> = OnceLock::new();
    VM.get_or_init(|| {
        let root = std::env::temp_dir().join(format!("guesthouse-fuzz-{}", std::process::id()));
        let made = Registry::at(root.clone()).and_then(|registry| registry.create(None, false));
        let (folder, status) = made.unwrap_or_else(|e| panic!("no folder for a machine: {e}"));
        // Nothing of it is needed but the descriptors that are open.
        let _ = std::fs::remove_dir_all(root);
        let vm = Vm::new(folder, status, MachineSpec::default());
        vm.hub().push(b"what the guest has said");
        Arc::new(vm)
    })
}

fn run(data: &[u8]) {
    let answers = server::answers(vm(), data);
    let text = String::from_utf8_lossy(&answers);
    assert!(answers.is_empty() || text.starts_with("HTTP/1."), "{text}");
    assert!(!text.contains("HTTP/1.1 500"), "{text}");
}
