//! Which operation a request asks for, and what it needs of a signature (blob WIRE.md §6, §7). Pure.

use super::error::{Code, Error};
use crate::api::auth::blob::{Level, Needs};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    ListContainers,
    AccountInfo,
    CreateContainer,
    DeleteContainer,
    ContainerProperties,
    SetContainerMetadata,
    ListBlobs,
    PutBlob,
    GetBlob,
    BlobProperties,
    DeleteBlob,
    SetBlobMetadata,
    SetBlobProperties,
    PutBlock,
    PutBlockList,
    GetBlockList,
    PutAppendBlob,
    AppendBlock,
    AppendBlockFromUrl,
    CopyBlob,
    CopyBlobFromUrl,
    AbortCopy,
    PutBlobFromUrl,
    PutBlockFromUrl,
    ServiceProperties,
    GetContainerAcl,
    SetContainerAcl,
    Batch,
}

/// Letters of which any good signature has one.
const ANY: &str = "racwdxyltfmeopi";

/// The parts of a request that decide.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'a> {
    pub method: &'a str,
    pub level: Level,
    pub restype: Option<&'a str>,
    pub comp: Option<&'a str>,
    pub blob_type: Option<&'a str>,
    pub copy_source: bool,
    /// `x-ms-requires-sync`: what tells the two ways to copy a whole blob apart.
    pub is_synchronous: bool,
    /// A snapshot or version is named.
    pub past: bool,
}

impl Operation {
    pub fn of(shape: Shape) -> Result<Operation, Error> {
        let restype = shape.restype.unwrap_or_default();
        let comp = shape.comp.unwrap_or_default();
        if !matches!(shape.method, "GET" | "HEAD" | "PUT" | "DELETE" | "POST" | "OPTIONS") {
            return Err(Code::UnsupportedHttpVerb.into());
        }
        if shape.past {
            return Err(Error::not_implemented("a snapshot or version of a blob"));
        }
        match shape.level {
            Level::Service => match (shape.method, restype, comp) {
                ("GET", "", "list") => Ok(Operation::ListContainers),
                ("GET" | "HEAD", "account", "properties") => Ok(Operation::AccountInfo),
                ("GET", "service", "properties") => Ok(Operation::ServiceProperties),
                // The JavaScript package takes the account in a path for a container.
                ("POST", "" | "container", "batch") => Ok(Operation::Batch),
                (_, _, "") => Err(Code::InvalidQueryParameterValue.into()),
                _ => Err(Error::not_implemented(&format!("service operation `{restype}` `{comp}`"))),
            },
            Level::Container => match (shape.method, restype, comp) {
                ("PUT", "container", "") => Ok(Operation::CreateContainer),
                ("DELETE", "container", "") => Ok(Operation::DeleteContainer),
                ("GET" | "HEAD", "container", "" | "metadata") => Ok(Operation::ContainerProperties),
                ("PUT", "container", "metadata") => Ok(Operation::SetContainerMetadata),
                ("GET", "container", "list") => Ok(Operation::ListBlobs),
                ("GET" | "HEAD", "container", "acl") => Ok(Operation::GetContainerAcl),
                ("PUT", "container", "acl") => Ok(Operation::SetContainerAcl),
                ("POST", "container", "batch") => Ok(Operation::Batch),
                (_, "account", "properties") => Ok(Operation::AccountInfo),
                (_, "container", comp) => {
                    Err(Error::not_implemented(&format!("container operation `{comp}`")))
                }
                // Without restype the one segment would be a blob of the root container.
                _ => Err(Error::not_implemented("the root container")),
            },
            Level::Blob => Operation::of_blob(shape, comp),
        }
    }

    fn of_blob(shape: Shape, comp: &str) -> Result<Operation, Error> {
        match (shape.method, comp) {
            ("PUT", "") => match shape.blob_type {
                Some("BlockBlob") if shape.copy_source => Ok(Operation::PutBlobFromUrl),
                Some("BlockBlob") => Ok(Operation::PutBlob),
                Some("AppendBlob") if !shape.copy_source => Ok(Operation::PutAppendBlob),
                Some("PageBlob") => Err(Error::not_implemented("blob type PageBlob")),
                Some(_) => {
                    let why = "x-ms-blob-type must be BlockBlob or AppendBlob, and BlockBlob with a source.";
                    Err(Error::new(Code::InvalidHeaderValue).because(why))
                }
                None if shape.copy_source && shape.is_synchronous => Ok(Operation::CopyBlobFromUrl),
                None if shape.copy_source => Ok(Operation::CopyBlob),
                None => Err(Error::new(Code::MissingRequiredHeader).because("x-ms-blob-type is missing.")),
            },
            ("PUT", "block") if shape.copy_source => Ok(Operation::PutBlockFromUrl),
            ("PUT", "block") => Ok(Operation::PutBlock),
            ("PUT", "appendblock") if shape.copy_source => Ok(Operation::AppendBlockFromUrl),
            ("PUT", "appendblock") => Ok(Operation::AppendBlock),
            ("PUT", "copy") => Ok(Operation::AbortCopy),
            ("PUT", "blocklist") => Ok(Operation::PutBlockList),
            ("PUT", "metadata") => Ok(Operation::SetBlobMetadata),
            ("PUT", "properties") => Ok(Operation::SetBlobProperties),
            ("GET", "") => Ok(Operation::GetBlob),
            ("GET", "blocklist") => Ok(Operation::GetBlockList),
            ("HEAD", "") | ("GET" | "HEAD", "metadata") => Ok(Operation::BlobProperties),
            ("DELETE", "") => Ok(Operation::DeleteBlob),
            (_, "") => Err(Code::UnsupportedHttpVerb.into()),
            (_, comp) => Err(Error::not_implemented(&format!("blob operation `{comp}`"))),
        }
    }

    /// `level` is that of the request.
    pub fn needs(self, level: Level) -> Needs {
        let needs = |level, letters| Needs { level, letters, create_if_new: false, account_only: false };
        let account = |needs| Needs { account_only: true, ..needs };
        match self {
            Operation::ListContainers => account(needs(Level::Service, "l")),
            // Any good account signature may ask; every letter will do.
            Operation::AccountInfo => account(needs(Level::Service, ANY)),
            Operation::ServiceProperties => account(needs(Level::Service, "r")),
            // What is in it needs permissions of its own.
            Operation::Batch => needs(level, ANY),
            Operation::CreateContainer => account(needs(Level::Container, "cw")),
            Operation::DeleteContainer => account(needs(Level::Container, "d")),
            Operation::ContainerProperties => account(needs(Level::Container, "r")),
            Operation::SetContainerMetadata => account(needs(Level::Container, "w")),
            // The key alone.
            Operation::GetContainerAcl | Operation::SetContainerAcl => account(needs(Level::Container, "")),
            Operation::ListBlobs => needs(Level::Container, "l"),
            Operation::PutBlob
            | Operation::PutBlockList
            | Operation::PutAppendBlob
            | Operation::CopyBlob
            | Operation::CopyBlobFromUrl
            | Operation::PutBlobFromUrl => Needs { create_if_new: true, ..needs(Level::Blob, "w") },
            Operation::PutBlock | Operation::PutBlockFromUrl => needs(Level::Blob, "cw"),
            Operation::AppendBlock | Operation::AppendBlockFromUrl => needs(Level::Blob, "aw"),
            Operation::GetBlob | Operation::BlobProperties | Operation::GetBlockList => {
                needs(Level::Blob, "r")
            }
            Operation::DeleteBlob => needs(Level::Blob, "d"),
            Operation::SetBlobMetadata | Operation::SetBlobProperties | Operation::AbortCopy => {
                needs(Level::Blob, "w")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let of = |method, level, restype, comp| {
            let shape = Shape {
                method,
                level,
                restype,
                comp,
                blob_type: Some("BlockBlob"),
                copy_source: false,
                is_synchronous: false,
                past: false,
            };
            Operation::of(shape).map_err(|error| error.code)
        };
        let container = Some("container");
        let cases = [
            ("GET", Level::Service, None, Some("list"), Ok(Operation::ListContainers)),
            ("POST", Level::Service, None, Some("batch"), Ok(Operation::Batch)),
            ("POST", Level::Service, container, Some("batch"), Ok(Operation::Batch)),
            ("PUT", Level::Service, Some("service"), Some("properties"), Err(Code::NotImplemented)),
            ("PUT", Level::Container, container, None, Ok(Operation::CreateContainer)),
            ("HEAD", Level::Container, container, None, Ok(Operation::ContainerProperties)),
            ("GET", Level::Container, container, Some("acl"), Ok(Operation::GetContainerAcl)),
            ("PUT", Level::Container, container, Some("lease"), Err(Code::NotImplemented)),
            ("PUT", Level::Blob, None, None, Ok(Operation::PutBlob)),
            ("PUT", Level::Blob, None, Some("appendblock"), Ok(Operation::AppendBlock)),
            ("PUT", Level::Blob, None, Some("snapshot"), Err(Code::NotImplemented)),
            ("PUT", Level::Blob, None, Some("tags"), Err(Code::NotImplemented)),
            ("POST", Level::Blob, None, None, Err(Code::UnsupportedHttpVerb)),
            ("PATCH", Level::Blob, None, None, Err(Code::UnsupportedHttpVerb)),
            ("HEAD", Level::Blob, None, None, Ok(Operation::BlobProperties)),
        ];
        for (method, level, restype, comp, expected) in cases {
            assert_eq!(of(method, level, restype, comp), expected, "{method} {level:?} {restype:?} {comp:?}");
        }
    }
}
