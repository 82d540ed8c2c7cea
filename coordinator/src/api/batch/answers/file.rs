//! A file of a node as lists show it (`files-and-storage.md` §7).

use crate::api::batch::json::Object;
use lote_shared::protocol::files::Properties;

/// What files are served as.
pub const CONTENT_TYPE: &str = "application/octet-stream";

pub fn write(object: &mut Object, url: &str, name: &str, properties: &Properties) {
    object.text("name", name);
    object.text("url", url);
    object.boolean("isDirectory", properties.directory);
    if properties.directory {
        return;
    }
    object.object("properties", |object| {
        object.time("lastModified", properties.modified);
        // A 64-bit count, which this interface writes as text.
        object.text("contentLength", &properties.length.to_string());
        object.text("contentType", CONTENT_TYPE);
        object.text("fileMode", &mode_text(properties.mode));
    });
}

/// `0o100644`
pub fn mode_text(mode: u32) -> String {
    format!("0o{mode:o}")
}
