//! Applications as the data plane shows them (`files-and-storage.md` §8.1); `/lote/applications` changes them.

use super::{collect, element, page_answer};
use crate::api::batch::call::Call;
use crate::api::batch::errors::Error;
use crate::api::batch::json::Object;
use crate::api::batch::lookup;
use crate::api::batch::response::Answer;
use crate::state::ApplicationRecord;

pub async fn list(call: &Call<'_>) -> Result<Answer, Error> {
    let page = collect(call, super::PAGE_MAX, |cluster, after, most| {
        lookup::applications(cluster, call.account, after, most)
    });
    Ok(page_answer(call, "applications", page.await?, write))
}

pub async fn get(call: &Call<'_>) -> Result<Answer, Error> {
    let record = call.read(|cluster| lookup::application(cluster, call.account, call.parameter(0))).await??;
    Ok(element(call, "applications/@Element", |object| write(object, &record)))
}

fn write(object: &mut Object, record: &ApplicationRecord) {
    object.text("id", record.id.as_str());
    object.text("displayName", record.display_name.as_deref().unwrap_or(record.id.as_str()));
    object.texts("versions", record.packages.iter().map(|package| package.version.as_str()));
}
