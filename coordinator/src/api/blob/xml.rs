//! XML bodies (blob WIRE.md §9), both ways.

use super::error::{Code, Error};
use crate::state::blobs::AccessPolicy;
use crate::state::reply::Version;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lote_shared::model::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use quick_xml::events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event};
use quick_xml::{Reader, Writer};

use super::respond::{BlobFacts, DEFAULT_TYPE, progress};

/// Most blocks of a blob.
pub const BLOCKS_MAX: usize = 50_000;

/// What stays as it is in a percent-encoded name.
const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// Writes elements into memory, which cannot fail.
pub struct Document {
    writer: Writer<Vec<u8>>,
}

impl Document {
    pub fn new() -> Document {
        let mut document = Document { writer: Writer::new(Vec::new()) };
        document.event(Event::Decl(BytesDecl::new("1.0", Some("utf-8"), None)));
        document
    }

    fn event(&mut self, event: Event) {
        // Writing to a vector has no errors.
        let _ = self.writer.write_event(event);
    }

    pub fn open(&mut self, name: &str, attributes: &[(&str, &str)]) {
        let start = BytesStart::new(name).with_attributes(attributes.iter().copied());
        self.event(Event::Start(start));
    }

    pub fn close(&mut self, name: &str) {
        self.event(Event::End(BytesEnd::new(name)));
    }

    pub fn leaf(&mut self, name: &str, text: &str) {
        self.open(name, &[]);
        self.event(Event::Text(BytesText::new(text)));
        self.close(name);
    }

    /// A name, percent-encoded and marked so if XML cannot hold it.
    pub fn name(&mut self, element: &str, name: &str) {
        let impossible = |c: char| c < ' ' || matches!(c, '\u{7F}'..='\u{9F}' | '\u{FFFE}' | '\u{FFFF}');
        if name.contains(impossible) {
            self.open(element, &[("Encoded", "true")]);
            self.event(Event::Text(BytesText::new(&utf8_percent_encode(name, NAME).to_string())));
            self.close(element);
        } else {
            self.leaf(element, name);
        }
    }

    pub fn metadata(&mut self, metadata: &[(String, String)]) {
        self.open("Metadata", &[]);
        for (name, value) in metadata {
            self.leaf(name, value);
        }
        self.close("Metadata");
    }

    pub fn finish(self) -> Vec<u8> {
        self.writer.into_inner()
    }
}

pub fn error(code: &str, message: &str) -> Vec<u8> {
    let mut document = Document::new();
    document.open("Error", &[]);
    document.leaf("Code", code);
    document.leaf("Message", message);
    document.close("Error");
    document.finish()
}

/// What the service does of its own accord, which is nothing.
pub fn service_properties() -> Vec<u8> {
    let mut document = Document::new();
    let disabled = |document: &mut Document, element: &str| {
        document.open(element, &[]);
        document.leaf("Enabled", "false");
        document.close(element);
    };
    document.open("StorageServiceProperties", &[]);
    document.open("Logging", &[]);
    document.leaf("Version", "1.0");
    ["Delete", "Read", "Write"].into_iter().for_each(|what| document.leaf(what, "false"));
    disabled(&mut document, "RetentionPolicy");
    document.close("Logging");
    for metrics in ["HourMetrics", "MinuteMetrics"] {
        document.open(metrics, &[]);
        document.leaf("Version", "1.0");
        document.leaf("Enabled", "false");
        disabled(&mut document, "RetentionPolicy");
        document.close(metrics);
    }
    document.leaf("Cors", "");
    disabled(&mut document, "DeleteRetentionPolicy");
    disabled(&mut document, "StaticWebsite");
    document.close("StorageServiceProperties");
    document.finish()
}

pub fn policies(policies: &[AccessPolicy]) -> Vec<u8> {
    let mut document = Document::new();
    document.open("SignedIdentifiers", &[]);
    for policy in policies {
        document.open("SignedIdentifier", &[]);
        document.leaf("Id", &policy.id);
        document.open("AccessPolicy", &[]);
        if let Some(start) = policy.start {
            document.leaf("Start", &start.to_string());
        }
        if let Some(expiry) = policy.expiry {
            document.leaf("Expiry", &expiry.to_string());
        }
        if let Some(permissions) = &policy.permissions {
            document.leaf("Permission", permissions);
        }
        document.close("AccessPolicy");
        document.close("SignedIdentifier");
    }
    document.close("SignedIdentifiers");
    document.finish()
}

/// The body of Set Container ACL, as it is written.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SignedIdentifiers {
    #[serde(default)]
    signed_identifier: Vec<SignedIdentifier>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SignedIdentifier {
    #[serde(default)]
    id: String,
    access_policy: Option<GivenPolicy>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GivenPolicy {
    start: Option<String>,
    expiry: Option<String>,
    permission: Option<String>,
}

/// Reads the body of Set Container ACL.
pub fn parse_policies(body: &[u8]) -> Result<Vec<AccessPolicy>, Error> {
    let bad = |why: String| Error::new(Code::InvalidXmlDocument).because(why);
    let text = std::str::from_utf8(body).map_err(|error| bad(error.to_string()))?;
    let text = text.trim_start_matches('\u{feff}');
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let given: SignedIdentifiers = quick_xml::de::from_str(text).map_err(|error| bad(error.to_string()))?;
    let time = |name: &str, text: Option<String>| match text.filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => {
            Timestamp::parse(&text).map(Some).ok_or_else(|| bad(format!("{name} `{text}` is no time.")))
        }
    };
    let policy = |given: SignedIdentifier| {
        let policy = given.access_policy.unwrap_or_default();
        Ok(AccessPolicy {
            id: given.id,
            start: time("Start", policy.start)?,
            expiry: time("Expiry", policy.expiry)?,
            permissions: policy.permission.filter(|text| !text.is_empty()),
        })
    };
    given.signed_identifier.into_iter().map(policy).collect()
}

/// One container of a listing.
#[derive(Debug, Clone)]
pub struct ContainerEntry {
    pub name: String,
    pub version: Version,
    pub metadata: Vec<(String, String)>,
}

/// What a listing was asked for; echoed in it.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    pub prefix: Option<String>,
    pub marker: Option<String>,
    pub delimiter: Option<String>,
    pub max_results: Option<usize>,
    pub with_metadata: bool,
    pub with_copy: bool,
}

impl ListQuery {
    fn echo(&self, document: &mut Document) {
        document.name("Prefix", self.prefix.as_deref().unwrap_or_default());
        document.leaf("Marker", self.marker.as_deref().unwrap_or_default());
        if let Some(max) = self.max_results {
            document.leaf("MaxResults", &max.to_string());
        }
        if let Some(delimiter) = &self.delimiter {
            document.name("Delimiter", delimiter);
        }
    }
}

pub fn containers(url: &str, query: &ListQuery, entries: &[ContainerEntry], next: &str) -> Vec<u8> {
    let mut document = Document::new();
    document.open("EnumerationResults", &[("ServiceEndpoint", url)]);
    query.echo(&mut document);
    document.open("Containers", &[]);
    for entry in entries {
        document.open("Container", &[]);
        document.leaf("Name", &entry.name);
        document.open("Properties", &[]);
        document.leaf("Last-Modified", &entry.version.modified.to_http_date());
        document.leaf("Etag", &format!("\"{}\"", entry.version.etag_text()));
        document.leaf("LeaseStatus", "unlocked");
        document.leaf("LeaseState", "available");
        document.leaf("HasImmutabilityPolicy", "false");
        document.leaf("HasLegalHold", "false");
        document.close("Properties");
        if query.with_metadata {
            document.metadata(&entry.metadata);
        }
        document.close("Container");
    }
    document.close("Containers");
    document.leaf("NextMarker", next);
    document.close("EnumerationResults");
    document.finish()
}

/// One entry of a blob listing: a blob, or a prefix without facts.
pub type BlobEntry = (String, Option<BlobFacts>);

pub fn blobs(url: &str, container: &str, query: &ListQuery, entries: &[BlobEntry], next: &str) -> Vec<u8> {
    let mut document = Document::new();
    document.open("EnumerationResults", &[("ServiceEndpoint", url), ("ContainerName", container)]);
    query.echo(&mut document);
    document.open("Blobs", &[]);
    for (name, facts) in entries {
        match facts {
            Some(facts) => blob(&mut document, name, facts, query),
            None => {
                document.open("BlobPrefix", &[]);
                document.name("Name", name);
                document.close("BlobPrefix");
            }
        }
    }
    document.close("Blobs");
    document.leaf("NextMarker", next);
    document.close("EnumerationResults");
    document.finish()
}

fn blob(document: &mut Document, name: &str, facts: &BlobFacts, query: &ListQuery) {
    document.open("Blob", &[]);
    document.name("Name", name);
    document.open("Properties", &[]);
    document.leaf("Creation-Time", &facts.created.to_http_date());
    document.leaf("Last-Modified", &facts.version.modified.to_http_date());
    document.leaf("Etag", &facts.version.etag_text());
    document.leaf("Content-Length", &facts.length.to_string());
    let headers = &facts.headers;
    document.leaf("Content-Type", headers.content_type.as_deref().unwrap_or(DEFAULT_TYPE));
    document.leaf("Content-Encoding", headers.content_encoding.as_deref().unwrap_or_default());
    document.leaf("Content-Language", headers.content_language.as_deref().unwrap_or_default());
    let md5 = headers.content_md5.map(|md5| STANDARD.encode(md5));
    document.leaf("Content-MD5", md5.as_deref().unwrap_or_default());
    document.leaf("Cache-Control", headers.cache_control.as_deref().unwrap_or_default());
    document.leaf("Content-Disposition", headers.content_disposition.as_deref().unwrap_or_default());
    document.leaf("BlobType", facts.blob_type());
    document.leaf("AccessTier", "Hot");
    document.leaf("AccessTierInferred", "true");
    document.leaf("LeaseStatus", "unlocked");
    document.leaf("LeaseState", "available");
    document.leaf("ServerEncrypted", "true");
    if let Some(copied) = facts.copied.as_ref().filter(|_| query.with_copy) {
        document.leaf("CopyId", &copied.id);
        document.leaf("CopyStatus", "success");
        document.leaf("CopySource", &copied.source);
        document.leaf("CopyProgress", &progress(copied));
        document.leaf("CopyCompletionTime", &copied.completed.to_http_date());
    }
    document.close("Properties");
    if query.with_metadata {
        document.metadata(&facts.metadata);
    }
    document.close("Blob");
}

pub fn block_list(committed: Option<&[(String, u64)]>, uncommitted: Option<&[(String, u64)]>) -> Vec<u8> {
    let mut document = Document::new();
    document.open("BlockList", &[]);
    for (element, blocks) in [("CommittedBlocks", committed), ("UncommittedBlocks", uncommitted)] {
        let Some(blocks) = blocks else { continue };
        document.open(element, &[]);
        for (id, size) in blocks {
            document.open("Block", &[]);
            document.leaf("Name", id);
            document.leaf("Size", &size.to_string());
            document.close("Block");
        }
        document.close(element);
    }
    document.close("BlockList");
    document.finish()
}

/// Where a block of a commit is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Committed,
    Uncommitted,
    /// Uncommitted first.
    Latest,
}

/// Reads the body of Put Block List.
pub fn parse_block_list(body: &[u8]) -> Result<Vec<(Source, String)>, Error> {
    let bad = |why: &str| Error::new(Code::InvalidXmlDocument).because(why);
    let mut reader = Reader::from_reader(body);
    reader.config_mut().trim_text(true);
    let mut blocks = Vec::new();
    let mut depth = 0;
    let mut rooted = false;
    let mut source = None;
    let mut id = String::new();
    loop {
        match reader.read_event().map_err(|error| bad(&error.to_string()))? {
            Event::Start(start) => {
                depth += 1;
                source = match (depth, start.name().as_ref()) {
                    (1, b"BlockList") if !rooted => {
                        rooted = true;
                        None
                    }
                    (2, b"Committed") => Some(Source::Committed),
                    (2, b"Uncommitted") => Some(Source::Uncommitted),
                    (2, b"Latest") => Some(Source::Latest),
                    _ => return Err(bad("This element does not belong there.")),
                };
                id.clear();
            }
            Event::Text(text) => {
                id.push_str(&text.decode().map_err(|error| bad(&error.to_string()))?);
            }
            Event::GeneralRef(_) => return Err(bad("A block id is base64 and has no references.")),
            Event::End(_) => {
                depth -= 1;
                if let Some(source) = source.take() {
                    if blocks.len() == BLOCKS_MAX {
                        return Err(Code::BlockListTooLong.into());
                    }
                    blocks.push((source, std::mem::take(&mut id)));
                }
            }
            Event::Empty(element) if depth == 0 && !rooted && element.name().as_ref() == b"BlockList" => {
                rooted = true
            }
            Event::Empty(_) | Event::CData(_) => return Err(bad("A block id is missing.")),
            Event::Eof => break,
            Event::Decl(_) | Event::Comment(_) | Event::PI(_) | Event::DocType(_) => {}
        }
    }
    match depth {
        0 if rooted => Ok(blocks),
        _ => Err(bad("The document ends too early.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_lists_are_read() {
        let body = b"<?xml version='1.0' encoding='utf-8'?>\n<BlockList>\n <Latest>QUE=</Latest>\
            <Committed>QUI=</Committed>\n<Uncommitted>QUM+</Uncommitted></BlockList>";
        let expected = [
            (Source::Latest, "QUE=".to_owned()),
            (Source::Committed, "QUI=".to_owned()),
            (Source::Uncommitted, "QUM+".to_owned()),
        ];
        assert_eq!(parse_block_list(body).unwrap(), expected);
        assert_eq!(parse_block_list(b"<BlockList/>").unwrap(), []);
        assert_eq!(parse_block_list(b"\xEF\xBB\xBF<BlockList></BlockList>").unwrap(), []);
        for bad in [
            "",
            "<BlockList/><BlockList/>",
            "<BlockList>",
            "<Other/>x<",
            "<BlockList><Old>x</Old></BlockList>",
            "<BlockList><Latest/></BlockList>",
        ] {
            assert_eq!(parse_block_list(bad.as_bytes()).unwrap_err().code, Code::InvalidXmlDocument, "{bad}");
        }
        let many = format!("<BlockList>{}</BlockList>", "<Latest>AA==</Latest>".repeat(BLOCKS_MAX + 1));
        assert_eq!(parse_block_list(many.as_bytes()).unwrap_err().code, Code::BlockListTooLong);
    }

    #[test]
    fn names_that_xml_cannot_hold_are_encoded() {
        let mut document = Document::new();
        document.name("Name", "a<b>&\"c\" +%41 ä");
        document.name("Name", "a\u{1}b/c%\n");
        let text = String::from_utf8(document.finish()).unwrap();
        let text = text.strip_prefix("<?xml version=\"1.0\" encoding=\"utf-8\"?>").unwrap();
        assert_eq!(
            text,
            "<Name>a&lt;b&gt;&amp;&quot;c&quot; +%41 ä</Name><Name Encoded=\"true\">a%01b/c%25%0A</Name>"
        );
    }
}
