//! `guesthouse limit` and `guesthouse balloon`.

use std::io::Write;

use machine::Size;
use serde_json::Value;
use server::Registry;

use crate::limit_args::DeviceLimit;

/// Changes what is given; says what the limits are if nothing is.
pub fn limit(
    registry: &Registry,
    name: &str,
    cpus: Option<&str>,
    weight: Option<u32>,
    devices: &[DeviceLimit],
) -> anyhow::Result<()> {
    let mut client = registry.find(name)?.connect()?;
    if cpus.is_none() && weight.is_none() && devices.is_empty() {
        return print(&client.get("/v1/limits")?);
    }
    let query = |pairs: &[(&str, Option<String>)]| -> String {
        let pairs = pairs.iter().filter_map(|(key, value)| Some(format!("{key}={}", value.as_ref()?)));
        pairs.collect::<Vec<_>>().join("&")
    };
    if cpus.is_some() || weight.is_some() {
        let cpus = cpus.map(str::to_owned);
        client.post(&format!(
            "/v1/limits?{}",
            query(&[("cpus", cpus), ("weight", weight.map(|w| w.to_string()))])
        ))?;
    }
    for limit in devices {
        let rate = &limit.rate;
        let ops = rate.ops.map(|ops| ops.to_string());
        let [bytes, burst] = [rate.bytes, rate.burst].map(|size| size.map(|size| size.to_string()));
        let query = query(&[("ops", ops), ("bytes", bytes), ("burst", burst)]);
        for device in &limit.devices {
            client.post(&format!("/v1/limits/{device}?{query}"))?;
        }
    }
    Ok(())
}

/// Sets the size, or says what there is to say.
pub fn balloon(registry: &Registry, name: &str, size: Option<Size>, json: bool) -> anyhow::Result<()> {
    let mut client = registry.find(name)?.connect()?;
    if let Some(size) = size {
        let size = if size.get() == 0 { "0".to_owned() } else { size.to_string() };
        return Ok(client.post(&format!("/v1/balloon?size={size}"))?);
    }
    let report: Value = client.get("/v1/balloon")?;
    if json {
        return print(&report);
    }
    let mut out = std::io::stdout().lock();
    let mut row = |what: &str, bytes: Option<u64>| match bytes {
        Some(bytes) => writeln!(out, "{what:<22} {:>8.1} MiB", bytes as f64 / f64::from(1 << 20)),
        None => Ok(()),
    };
    let number = |value: &Value, key: &str| value.get(key).and_then(Value::as_u64);
    row("asked for", number(&report, "target"))?;
    row("given up", number(&report, "size"))?;
    row("freed and returned", number(&report, "reported"))?;
    for (what, key) in
        [("guest: in all", "total"), ("guest: free", "free"), ("guest: available", "available")]
    {
        row(what, report.get("guest").and_then(|guest| number(guest, key)))?;
    }
    Ok(out.flush()?)
}

fn print(value: &Value) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(out.flush()?)
}
