//! The API's description for others, made of the code: `server/openapi.json`, which a test compares.

use utoipa::OpenApi;

use crate::routes::{self, Answer, Event, MachineInfo, Stats};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Guesthouse machine",
        description = "The control API of one running machine, on the Unix socket api.sock of its folder.",
        version = "1",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    paths(
        routes::machine::machine,
        routes::machine::document,
        routes::power::pause,
        routes::power::resume,
        routes::power::stop,
        routes::power::kill,
        routes::engine::move_to,
        routes::stats::stats,
        routes::limits::limits,
        routes::limits::set_cpu,
        routes::limits::set_rate,
        routes::limits::balloon,
        routes::limits::set_balloon,
        routes::events::events,
        routes::console::console,
        routes::console::size,
        routes::exec::exec,
        routes::files::pack,
        routes::files::unpack,
        routes::snapshot::take,
        routes::logs::logs,
        routes::metrics::metrics,
    ),
    components(schemas(Answer, Event, MachineInfo, Stats))
)]
struct Api;

/// The OpenAPI document, as JSON.
#[must_use]
pub fn document() -> String {
    let mut text = Api::openapi().to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    /// To accept a change: `UPDATE_OPENAPI=1 cargo test -p server openapi`.
    #[test]
    fn the_document_that_is_checked_in_is_the_codes() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
        let now = super::document();
        if std::env::var_os("UPDATE_OPENAPI").is_some() {
            std::fs::write(path, &now).unwrap();
        }
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(kept, now, "server/openapi.json is not what the code says");
    }
}
