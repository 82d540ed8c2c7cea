//! Pools: add, patch, update of properties, resize (`pools-and-nodes.md` §4, §6).

use super::parts::{display_name, metadata, name, packages, start_task};
use super::{Members, body};
use crate::api::batch::errors::{Code, Error};
use crate::state::command::PoolPatch;
use lote_shared::model::{
    DeallocationOption, FillType, JobOrder, PackageReference, PoolCold, PoolExtra, PoolId, PoolSpec, Span,
};
use serde_json::Value;

/// Nodes of a kind in one pool (`pools-and-nodes.md` §2.2).
const NODES_MAX: i64 = 10_000;
const SLOTS_MAX: i64 = 256;
const RESIZE_TIMEOUT_LEAST: Span = Span::from_secs(5 * 60);
const RESIZE_TIMEOUT_DEFAULT: Span = Span::from_secs(15 * 60);
const USER_ACCOUNTS_MAX: usize = 100;
const NAT_POOLS_MAX: usize = 5;
const MOUNTS_MAX: usize = 10;

/// Members that nothing here uses and reads show again (WIRE.md §13).
const ECHOED: [&str; 9] = [
    "virtualMachineConfiguration",
    "cloudServiceConfiguration",
    "networkConfiguration",
    "userAccounts",
    "mountConfiguration",
    "targetNodeCommunicationMode",
    "upgradePolicy",
    "resourceTags",
    "applicationLicenses",
];

/// `POST /pools`.
pub fn add(bytes: &[u8]) -> Result<NewPool, Error> {
    let mut pool = body(bytes, "BatchPoolCreateOptions")?;
    let id = name(&mut pool, "id", PoolId::new)?;
    spec(&mut pool, id)
}

/// A pool, and what it has beyond its spec.
pub type NewPool = (PoolSpec, Vec<PoolExtra>);

/// What a pool is beside its name; that of an auto pool has the same members.
pub fn spec(pool: &mut Members, id: PoolId) -> Result<NewPool, Error> {
    pool.refuse_unbuilt(&[
        "enableAutoScale",
        "autoScaleFormula",
        "autoScaleEvaluationInterval",
        "certificateReferences",
    ])?;
    let vm_size = pool.required_text("vmSize")?;
    if !pool.has("targetDedicatedNodes") && !pool.has("targetLowPriorityNodes") {
        return Err(Error::missing("targetDedicatedNodes"));
    }
    let (dedicated, low_priority) = targets(pool)?;
    let image_servable =
        match (pool.has("virtualMachineConfiguration"), pool.has("cloudServiceConfiguration")) {
            (true, false) => check_image(pool)?,
            // The older kind of pool runs Windows only.
            (false, true) => false,
            (false, false) => return Err(Error::missing("virtualMachineConfiguration")),
            (true, true) => {
                let reason =
                    "only one of virtualMachineConfiguration and cloudServiceConfiguration can be given";
                return Err(Error::property("virtualMachineConfiguration", "", reason));
            }
        };
    check_echoed(pool)?;
    let (fill_type, job_order) = scheduling_policy(pool);
    let packages = packages(pool)?;
    let extras = if packages.is_empty() { Vec::new() } else { vec![PoolExtra::Packages(packages)] };
    let spec = PoolSpec {
        id,
        vm_size,
        target_dedicated: dedicated.unwrap_or(0),
        target_low_priority: low_priority.unwrap_or(0),
        resize_timeout: resize_timeout(pool)?,
        task_slots_per_node: slots(pool)?.unwrap_or(1),
        fill_type: fill_type.unwrap_or(FillType::Spread),
        job_order: job_order.unwrap_or(JobOrder::None),
        inter_node_communication: pool.boolean("enableInterNodeCommunication").unwrap_or(false),
        image_servable,
        cold: PoolCold {
            display_name: display_name(pool)?,
            start_task: start_task(pool)?,
            metadata: metadata(pool)?,
            echo: pool.echo(&ECHOED),
        },
    };
    Ok((spec, extras))
}

/// What is to change, and the packages of nodes to come if they are to.
pub type Patch = (PoolPatch, Option<Vec<PackageReference>>);

/// `PATCH /pools/{id}`: only what is named changes.
pub fn patch(bytes: &[u8]) -> Result<Patch, Error> {
    let mut pool = body(bytes, "BatchPoolUpdateOptions")?;
    pool.refuse_unbuilt(&["certificateReferences"])?;
    let new_packages = pool.has("applicationPackageReferences");
    let packages = packages(&mut pool)?;
    if pool.has("virtualMachineConfiguration") && !check_image(&mut pool)? {
        return Err(Error::not_built("virtualMachineConfiguration.imageReference"));
    }
    check_echoed(&pool)?;
    let (fill_type, job_order) = scheduling_policy(&mut pool);
    let vm_size = if pool.has("vmSize") { Some(pool.required_text("vmSize")?) } else { None };
    let new_metadata = pool.has("metadata");
    let items = metadata(&mut pool)?;
    let echo = pool.echo(&ECHOED);
    let patch = PoolPatch {
        start_task: start_task(&mut pool)?.map(Some),
        metadata: new_metadata.then_some(items),
        display_name: display_name(&mut pool)?,
        vm_size,
        task_slots_per_node: slots(&mut pool)?,
        fill_type,
        job_order,
        inter_node_communication: pool.boolean("enableInterNodeCommunication"),
        echo: (!echo.is_empty()).then_some(echo),
    };
    Ok((patch, new_packages.then_some(packages)))
}

/// `POST /pools/{id}/updateproperties`: the three members are replaced, an absent start task is removed.
pub fn update_properties(bytes: &[u8]) -> Result<Patch, Error> {
    let mut pool = body(bytes, "BatchPoolReplaceOptions")?;
    pool.refuse_unbuilt(&["certificateReferences"])?;
    let packages = packages(&mut pool)?;
    let patch = PoolPatch {
        start_task: Some(start_task(&mut pool)?),
        metadata: Some(metadata(&mut pool)?),
        ..PoolPatch::default()
    };
    Ok((patch, Some(packages)))
}

/// What a resize asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resize {
    pub dedicated: Option<u32>,
    pub low_priority: Option<u32>,
    pub timeout: Span,
    pub option: DeallocationOption,
}

/// `POST /pools/{id}/resize`.
pub fn resize(bytes: &[u8]) -> Result<Resize, Error> {
    let mut resize = body(bytes, "BatchPoolResizeOptions")?;
    let (dedicated, low_priority) = targets(&mut resize)?;
    if dedicated.is_none() && low_priority.is_none() {
        return Err(Error::missing("targetDedicatedNodes"));
    }
    let option = match resize.text("nodeDeallocationOption").as_deref() {
        Some("terminate") => DeallocationOption::Terminate,
        Some("taskcompletion") => DeallocationOption::TaskCompletion,
        Some("retaineddata") => DeallocationOption::RetainedData,
        _ => DeallocationOption::Requeue,
    };
    Ok(Resize { dedicated, low_priority, timeout: resize_timeout(&mut resize)?, option })
}

fn targets(members: &mut Members) -> Result<(Option<u32>, Option<u32>), Error> {
    let mut target = |name| members.within(name, 0, NODES_MAX);
    let (dedicated, low_priority) = (target("targetDedicatedNodes")?, target("targetLowPriorityNodes")?);
    let number = |target: Option<i64>| target.and_then(|target| u32::try_from(target).ok());
    Ok((number(dedicated), number(low_priority)))
}

fn slots(members: &mut Members) -> Result<Option<u16>, Error> {
    let older = members.within("maxTasksPerNode", 1, SLOTS_MAX)?;
    let slots = members.within("taskSlotsPerNode", 1, SLOTS_MAX)?;
    Ok(slots.or(older).and_then(|slots| u16::try_from(slots).ok()))
}

fn resize_timeout(members: &mut Members) -> Result<Span, Error> {
    let timeout = members.span("resizeTimeout").unwrap_or(RESIZE_TIMEOUT_DEFAULT);
    if timeout < RESIZE_TIMEOUT_LEAST {
        let reason = format!("it must be {RESIZE_TIMEOUT_LEAST} or more");
        return Err(Error::property("resizeTimeout", &timeout.to_string(), reason));
    }
    Ok(timeout)
}

fn scheduling_policy(members: &mut Members) -> (Option<FillType>, Option<JobOrder>) {
    let Some(mut policy) = members.object("taskSchedulingPolicy") else { return (None, None) };
    let fill_type = match policy.text("nodeFillType").as_deref() {
        Some("pack") => FillType::Pack,
        _ => FillType::Spread,
    };
    let job_order = match policy.text("jobDefaultOrder").as_deref() {
        Some("creationtime") => JobOrder::CreationTime,
        _ => JobOrder::None,
    };
    (Some(fill_type), Some(job_order))
}

/// Whether a Linux host can serve the image. Images that only a cloud account has are refused.
fn check_image(pool: &mut Members) -> Result<bool, Error> {
    const NAME: &str = "virtualMachineConfiguration";
    let mut machine = pool.object(NAME).ok_or_else(|| Error::missing(NAME))?;
    machine.refuse_unbuilt(&["containerConfiguration", "extensions"])?;
    if let Some(mut placement) = machine.object("nodePlacementConfiguration") {
        let policy = placement.text("policy");
        if policy.as_deref() == Some("zonal") {
            return Err(Error::not_built(&placement.path("policy")));
        }
        placement.set_default("policy", "regional".into());
        machine.put_back("nodePlacementConfiguration", placement);
    }
    let sku = machine.peek("nodeAgentSKUId").and_then(Value::as_str).unwrap_or_default().to_ascii_lowercase();
    let mut image = machine.object("imageReference").ok_or_else(|| Error::missing("imageReference"))?;
    for member in ["virtualMachineImageId", "sharedGalleryImageId", "communityGalleryImageId"] {
        if let Some(id) = image.text(member) {
            let reason = "images of a cloud account are not available here; name publisher, offer and sku";
            return Err(Error::property(&image.path(member), &id, reason));
        }
    }
    for member in ["publisher", "offer", "sku"] {
        if !image.has(member) {
            return Err(Error::missing(&image.path(member)));
        }
    }
    image.set_default("version", "latest".into());
    let names = ["publisher", "offer"]
        .map(|member| image.peek(member).and_then(Value::as_str).unwrap_or_default().to_ascii_lowercase());
    let windows = sku.contains("windows") || names.iter().any(|name| name.contains("windows"));
    machine.put_back("imageReference", image);
    pool.put_back(NAME, machine);
    Ok(!windows)
}

/// The few checks that members nobody uses still get, because clients expect the refusal.
fn check_echoed(pool: &Members) -> Result<(), Error> {
    let at = |path: &str| {
        let mut parts = path.split('.');
        let first = parts.next().and_then(|name| pool.peek(name));
        parts.fold(first, |value, name| value.and_then(|value| value.get(name)))
    };
    let items = |path: &str| at(path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if let Some(id) = at("networkConfiguration.subnetId").and_then(Value::as_str) {
        let reason = "subnets of a cloud account are not available here";
        return Err(Error::property("networkConfiguration.subnetId", id, reason));
    }
    let at_most = |path: &str, most: usize| match items(path).len() {
        count if count > most => {
            Err(Error::property(path, &count.to_string(), format!("at most {most} are allowed")))
        }
        _ => Ok(()),
    };
    at_most("networkConfiguration.endpointConfiguration.inboundNATPools", NAT_POOLS_MAX)?;
    at_most("userAccounts", USER_ACCOUNTS_MAX)?;
    at_most("mountConfiguration", MOUNTS_MAX)?;
    for disk in items("virtualMachineConfiguration.dataDisks") {
        let lun = disk.get("lun").and_then(Value::as_i64).unwrap_or(0);
        if !(0..=63).contains(&lun) {
            let path = "virtualMachineConfiguration.dataDisks.lun";
            return Err(Error::property(path, &lun.to_string(), "it must be from 0 to 63"));
        }
    }
    for account in items("userAccounts") {
        let linux = account.get("linuxUserConfiguration");
        let has = |member: &str| linux.is_some_and(|linux| linux.get(member).is_some());
        if has("uid") != has("gid") {
            let reason = "uid and gid must be given together or not at all";
            return Err(Error::of_property(
                Code::InvalidPropertyValue,
                "userAccounts.linuxUserConfiguration",
                "",
                reason,
            ));
        }
    }
    Ok(())
}
