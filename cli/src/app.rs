//! `lote app`: application packages, which pools and tasks name and nodes lay down.

use crate::client::Client;
use crate::members::{Common, client, show};
use crate::output::{Output, table};
use anyhow::{Context, ensure};
use lote_coordinator::api::ops::applications::{CONTAINER, blob_name};
use lote_shared::model::{ApplicationId, PackageReference, PackageVersion};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Bytes of one Put Blob.
const ZIP_MAX: u64 = 5_000 * 1024 * 1024;
/// What a zip begins with: a first entry, or the end of an empty one.
const ZIP_STARTS: [&[u8]; 2] = [b"PK\x03\x04", b"PK\x05\x06"];

#[derive(Debug, clap::Subcommand)]
pub enum App {
    /// Packages of applications.
    #[command(subcommand)]
    Package(Package),
    /// Show the applications and their packages.
    List {
        #[command(flatten)]
        common: Common,
    },
    /// Change what holds for an application.
    Set {
        name: ApplicationId,
        /// The version that is meant where none is named.
        #[arg(long)]
        default_version: Option<PackageVersion>,
        /// Whether packages can be replaced and deleted.
        #[arg(long)]
        allow_updates: Option<bool>,
        #[arg(long)]
        display_name: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Delete an application that has no packages any more.
    Delete {
        name: ApplicationId,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, clap::Subcommand)]
pub enum Package {
    /// Upload a zip as a version of an application, in the place of an earlier one of that name.
    Add {
        name: ApplicationId,
        #[arg(id = "package-version", value_name = "VERSION")]
        version: PackageVersion,
        zip: PathBuf,
        /// Make it the version that is meant where none is named.
        #[arg(long)]
        default: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Delete a version of an application; nodes keep what they have laid down.
    Delete {
        name: ApplicationId,
        #[arg(id = "package-version", value_name = "VERSION")]
        version: PackageVersion,
        #[command(flatten)]
        common: Common,
    },
}

pub fn main(command: App) -> anyhow::Result<ExitCode> {
    crate::block_on(async move {
        match command {
            App::Package(Package::Add { name, version, zip, default, common }) => {
                let client = client(&common)?;
                upload(&client, &name, &version, &zip).await?;
                let path = format!("/lote/applications/{name}/versions/{version}");
                client.post(&path, &json!({ "isDefault": default })).await?;
                let package = PackageReference { application: name, version: Some(version) };
                let text = format!("{package} can be used");
                say(&common, json!({ "added": package.to_string() }), &text)?;
            }
            App::Package(Package::Delete { name, version, common }) => {
                let client = client(&common)?;
                client.delete(&format!("/lote/applications/{name}/versions/{version}")).await?;
                client.delete_blob(CONTAINER, &blob_name(&name, &version)).await?;
                let package = PackageReference { application: name, version: Some(version) };
                let text = format!("{package} is deleted");
                say(&common, json!({ "deleted": package.to_string() }), &text)?;
            }
            App::List { common } => {
                let found = client(&common)?.get("/lote/applications").await?;
                match common.output {
                    Output::Json => show(&found)?,
                    Output::Text => println!("{}", text(&found)),
                }
            }
            App::Set { name, default_version, allow_updates, display_name, common } => {
                let body = json!({
                    "defaultVersion": default_version.map(|version| version.to_string()),
                    "allowUpdates": allow_updates,
                    "displayName": display_name,
                });
                client(&common)?.post(&format!("/lote/applications/{name}"), &body).await?;
                say(&common, json!({ "changed": name.to_string() }), &format!("{name} is changed"))?;
            }
            App::Delete { name, common } => {
                client(&common)?.delete(&format!("/lote/applications/{name}")).await?;
                say(&common, json!({ "deleted": name.to_string() }), &format!("{name} is deleted"))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    })?
}

async fn upload(
    client: &Client,
    name: &ApplicationId,
    version: &PackageVersion,
    zip: &Path,
) -> anyhow::Result<()> {
    let at = || format!("reading {}", zip.display());
    let length = std::fs::metadata(zip).with_context(at)?.len();
    ensure!(length <= ZIP_MAX, "{} has {length} bytes; a package may have {ZIP_MAX}", zip.display());
    let mut start = [0; 4];
    let mut file = std::fs::File::open(zip).with_context(at)?;
    let is_zip = std::io::Read::read_exact(&mut file, &mut start).is_ok() && ZIP_STARTS.contains(&&start[..]);
    ensure!(is_zip, "{} is no zip; a package is one, e.g. made with `zip -r app.zip bin lib`", zip.display());
    client.ensure_container(CONTAINER).await?;
    client.put_blob_file(CONTAINER, &blob_name(name, version), zip, length).await
}

fn say(common: &Common, value: Value, text: &str) -> anyhow::Result<()> {
    match common.output {
        Output::Json => show(&value),
        Output::Text => {
            println!("{text}");
            Ok(())
        }
    }
}

fn text(found: &Value) -> String {
    let none = Vec::new();
    let rows = found["applications"].as_array().unwrap_or(&none).iter().flat_map(|application| {
        let word = |name: &str| application[name].as_str().unwrap_or("-").to_owned();
        let packages = application["packages"].as_array().into_iter().flatten().map(move |package| {
            let version = package["version"].as_str().unwrap_or_default().to_owned();
            let mark = if version == word("defaultVersion") { "default" } else { "" };
            let when = package["lastActivationTime"].as_str().unwrap_or_default().to_owned();
            vec![word("id"), version, mark.to_owned(), when]
        });
        packages.collect::<Vec<_>>()
    });
    let rows: Vec<Vec<String>> = rows.collect();
    table(&["APPLICATION", "VERSION", "", "ACTIVATED"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_listed_by_application() {
        let found = json!({ "applications": [
            { "id": "blender", "defaultVersion": "2.8", "packages": [
                { "version": "2.7", "lastActivationTime": "noon" }, { "version": "2.8", "lastActivationTime": "later" },
            ]},
            { "id": "empty", "defaultVersion": null, "packages": [] },
        ]});
        let text = text(&found);
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(
            lines[1].starts_with("blender") && lines[1].ends_with("noon") && !lines[1].contains("default")
        );
        assert!(lines[2].contains("2.8") && lines[2].contains("default"));
    }
}
