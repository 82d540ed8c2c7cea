"""azure-batch 15.x: azure-core client, flat operations, pollers."""

from __future__ import annotations

import json

from azure.batch import BatchClient, models
from azure.batch.models._models import BatchJobTerminateOptions  # the package forgot to export it
from azure.core import MatchConditions
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from sdk import UBUNTU, FileProperties, Output, Refusal, Sdk

# Seconds between two looks of a poller; the package's own default of 5 s would only make the tests slow.
POLLING = 1


def _conditions(conditions):
    """The spelling of this generation for `if_match` and `if_none_match`; dates keep their names."""
    spelled = {name: value for name, value in conditions.items() if name.endswith("_since")}
    if "if_match" in conditions:
        if conditions["if_match"] == "*":
            spelled["match_condition"] = MatchConditions.IfPresent
        else:
            spelled["etag"] = conditions["if_match"]
            spelled["match_condition"] = MatchConditions.IfNotModified
    if "if_none_match" in conditions:
        if conditions["if_none_match"] == "*":
            spelled["match_condition"] = MatchConditions.IfMissing
        else:
            spelled["etag"] = conditions["if_none_match"]
            spelled["match_condition"] = MatchConditions.IfModified
    return spelled


class Py15(Sdk):
    name = "py15"
    models = models
    errors = (HttpResponseError,)

    def __init__(self, endpoints, key: str | None = None):
        credential = AzureNamedKeyCredential(endpoints.batch_account, key or endpoints.batch_key)
        self.client = BatchClient(endpoint=endpoints.batch_url, credential=credential)

    def refusal(self, error):
        if isinstance(error, models.CreateTasksError):
            assert error.errors, f"no whole request was refused: {error}"
            error = error.errors[0]
        body = error.model
        if body is None:
            # Of a refused download the package does not read the body, so it knows no code; a caller can.
            content = error.response.read()
            body = models.BatchError(json.loads(content)) if content else None
        code = getattr(body, "code", None)
        message = getattr(getattr(body, "message", None), "value", None)
        values = {item.key: item.value for item in getattr(body, "error_values", None) or []}
        return Refusal(error.status_code, code, message, values)

    # -- members that have another name in the other generation ---------------------------------------------------

    @staticmethod
    def etag(resource):
        return resource.etag

    @staticmethod
    def on_all_tasks_complete(job):
        return job.all_tasks_complete_mode

    @staticmethod
    def terminate_reason(job):
        return job.execution_info.termination_reason

    # -- models ---------------------------------------------------------------------------------------------------

    def pool(self, id, nodes=2, slots=1, start_task=None, metadata=None, vm_size="standard_a1_v2", image=UBUNTU, **more):
        publisher, offer, sku, agent = image
        return models.BatchPoolCreateOptions(
            id=id,
            vm_size=vm_size,
            virtual_machine_configuration=models.VirtualMachineConfiguration(
                image_reference=models.BatchVmImageReference(publisher=publisher, offer=offer, sku=sku, version="latest"),
                node_agent_sku_id=agent,
            ),
            target_dedicated_nodes=nodes,
            task_slots_per_node=slots,
            start_task=start_task,
            metadata=self.metadata(metadata),
            **more,
        )

    def metadata(self, items):
        if items is None:
            return None
        return [models.BatchMetadataItem(name=name, value=value) for name, value in items.items()]

    def environment(self, variables):
        if variables is None:
            return None
        return [models.EnvironmentSetting(name=name, value=value) for name, value in variables.items()]

    def start_task(self, command_line, resource_files=None, environment=None, retries=None, wait=True):
        return models.BatchStartTask(
            command_line=command_line,
            resource_files=resource_files,
            environment_settings=self.environment(environment),
            max_task_retry_count=retries,
            wait_for_success=wait,
        )

    def resource_file(self, **members):
        return models.ResourceFile(**members)

    def output_file(self, output: Output):
        return models.OutputFile(
            file_pattern=output.pattern,
            destination=models.OutputFileDestination(
                container=models.OutputFileBlobContainerDestination(
                    container_url=output.container_url, path=output.path
                )
            ),
            upload_options=models.OutputFileUploadConfiguration(
                upload_condition=models.OutputFileUploadCondition(output.condition)
            ),
        )

    def task_constraints(self, wall_clock=None, retention=None, retries=None):
        return models.BatchTaskConstraints(
            max_wall_clock_time=wall_clock, retention_time=retention, max_task_retry_count=retries
        )

    def task(
        self,
        id,
        command_line,
        resource_files=None,
        outputs=(),
        environment=None,
        wall_clock=None,
        retention=None,
        retries=None,
        slots=None,
        **more,
    ):
        constraints = None
        if (wall_clock, retention, retries) != (None, None, None):
            constraints = self.task_constraints(wall_clock, retention, retries)
        return models.BatchTaskCreateOptions(
            id=id,
            command_line=command_line,
            resource_files=resource_files,
            output_files=[self.output_file(output) for output in outputs] or None,
            environment_settings=self.environment(environment),
            constraints=constraints,
            required_slots=slots,
            **more,
        )

    def multi_instance(self):
        return models.MultiInstanceSettings(number_of_instances=2, coordination_command_line="/bin/true")

    def depends_on(self, *ids, ranges=()):
        ranges = [models.BatchTaskIdRange(start=start, end=end) for start, end in ranges]
        return models.BatchTaskDependencies(task_ids=list(ids) or None, task_id_ranges=ranges or None)

    def acts_on_failure(self):
        """The member of a job with which ends of its tasks may end or disable it."""
        return {"task_failure_mode": models.BatchTaskFailureMode.PERFORM_EXIT_OPTIONS_JOB_ACTION}

    def job_preparation(self, command_line, retries=None, **members):
        constraints = None if retries is None else self.task_constraints(retries=retries)
        return models.BatchJobPreparationTask(command_line=command_line, constraints=constraints, **members)

    def package(self, application, version=None):
        return models.BatchApplicationPackageReference(application_id=application, version=version)

    def list_applications(self):
        return list(self.client.list_applications())

    def get_application(self, id):
        return self.client.get_application(id)

    def job_release(self, command_line, **members):
        return models.BatchJobReleaseTask(command_line=command_line, **members)

    def job_manager(self, id, command_line, **members):
        return models.BatchJobManagerTask(id=id, command_line=command_line, **members)

    def with_token(self, task):
        """The task or manager, which gets a token for its job; this generation has no member for it."""
        task["authenticationTokenSettings"] = {"access": ["job"]}
        return task

    def token_access(self, task):
        return (task.get("authenticationTokenSettings") or {}).get("access")

    def auto_pool(self, nodes=1, slots=1, prefix=None, lifetime="job", keep_alive=None):
        """What a job says in the place of a pool's id."""
        pool = self.pool("unused", nodes=nodes, slots=slots)
        specification = models.BatchPoolSpecification(
            vm_size=pool.vm_size,
            virtual_machine_configuration=pool.virtual_machine_configuration,
            target_dedicated_nodes=nodes,
            task_slots_per_node=slots,
        )
        auto = models.BatchAutoPoolSpecification(
            auto_pool_id_prefix=prefix,
            pool_lifetime_option=models.BatchPoolLifetimeOption(lifetime),
            keep_alive=keep_alive,
            pool=specification,
        )
        return models.BatchPoolInfo(auto_pool_specification=auto)

    def preparation_status(self, id):
        return list(self.client.list_job_preparation_and_release_task_status(id))

    def job_constraints(self, wall_clock=None, retries=None):
        return models.BatchJobConstraints(max_wall_clock_time=wall_clock, max_task_retry_count=retries)

    def job(self, id, pool_id, environment=None, metadata=None, when_done=None, pool_info=None, **more):
        return models.BatchJobCreateOptions(
            id=id,
            pool_info=pool_info or models.BatchPoolInfo(pool_id=pool_id),
            common_environment_settings=self.environment(environment),
            metadata=self.metadata(metadata),
            all_tasks_complete_mode=when_done,
            **more,
        )

    # -- pools ----------------------------------------------------------------------------------------------------

    def create_pool(self, pool):
        self.client.create_pool(pool)

    def get_pool(self, id, select=None, **conditions):
        return self.client.get_pool(id, select=select, **_conditions(conditions))

    def list_pools(self, filter=None, select=None):
        return list(self.client.list_pools(filter=filter, select=select))

    def pool_exists(self, id) -> bool:
        try:
            return self.client.pool_exists(id)
        except ResourceNotFoundError:
            return False  # where the other generation answers False, this one raises

    def patch_pool(self, id, start_task=None, metadata=None, **conditions):
        patch = models.BatchPoolUpdateOptions(start_task=start_task, metadata=self.metadata(metadata))
        self.client.update_pool(id, patch, **_conditions(conditions))

    def replace_pool_properties(self, id, start_task, metadata):
        self.client.replace_pool_properties(
            id,
            models.BatchPoolReplaceOptions(
                start_task=start_task, application_package_references=[], metadata=self.metadata(metadata)
            ),
        )

    def resize_pool(self, id, dedicated=None, low_priority=None, option=None, wait=False, **conditions):
        resize = models.BatchPoolResizeOptions(
            target_dedicated_nodes=dedicated, target_low_priority_nodes=low_priority, node_deallocation_option=option
        )
        poller = self.client.begin_resize_pool(id, resize, polling_interval=POLLING, **_conditions(conditions))
        self._finish(poller, wait)

    def stop_resize(self, id):
        self.client.begin_stop_pool_resize(id, polling_interval=POLLING)

    def delete_pool(self, id, wait=False, **conditions):
        poller = self.client.begin_delete_pool(id, polling_interval=POLLING, **_conditions(conditions))
        self._finish(poller, wait)

    def node_counts(self, filter=None):
        return list(self.client.list_pool_node_counts(filter=filter))

    def supported_images(self, filter=None):
        return list(self.client.list_supported_images(filter=filter))

    # -- nodes ----------------------------------------------------------------------------------------------------

    def get_node(self, pool, id, select=None):
        return self.client.get_node(pool, id, select=select)

    def list_nodes(self, pool, filter=None, select=None):
        return list(self.client.list_nodes(pool, filter=filter, select=select))

    # -- jobs -----------------------------------------------------------------------------------------------------

    def create_job(self, job):
        self.client.create_job(job)

    def get_job(self, id, select=None, **conditions):
        return self.client.get_job(id, select=select, **_conditions(conditions))

    def list_jobs(self, filter=None, select=None):
        return list(self.client.list_jobs(filter=filter, select=select))

    def patch_job(self, id, when_done=None, pool_id=None, pool_info=None, metadata=None, **members):
        conditions = {name: members.pop(name) for name in list(members) if name.startswith("if_")}
        patch = models.BatchJobUpdateOptions(
            all_tasks_complete_mode=when_done,
            pool_info=models.BatchPoolInfo(pool_id=pool_id) if pool_id else pool_info,
            metadata=self.metadata(metadata),
            **members,
        )
        self.client.update_job(id, patch, **_conditions(conditions))

    def replace_job(self, id, pool_id, **members):
        self.client.replace_job(id, models.BatchJob(pool_info=models.BatchPoolInfo(pool_id=pool_id), **members))

    def disable_job(self, id, tasks, wait=False):
        options = models.BatchJobDisableOptions(disable_tasks=tasks)
        self._finish(self.client.begin_disable_job(id, options, polling_interval=POLLING), wait)

    def enable_job(self, id, wait=False):
        self._finish(self.client.begin_enable_job(id, polling_interval=POLLING), wait)

    def terminate_job(self, id, reason=None, wait=False, **conditions):
        # Without options that say something the package fails before it sends anything.
        options = BatchJobTerminateOptions(termination_reason=reason or "UserTerminate")
        poller = self.client.begin_terminate_job(
            id, options, polling_interval=POLLING, **_conditions(conditions)
        )
        self._finish(poller, wait)

    def delete_job(self, id, wait=False, **conditions):
        poller = self.client.begin_delete_job(id, polling_interval=POLLING, **_conditions(conditions))
        self._finish(poller, wait)

    def task_counts(self, id):
        return self.client.get_job_task_counts(id)

    # -- job schedules --------------------------------------------------------------------------------------------

    def job_specification(self, pool_id, when_done=None, pool_info=None, **members):
        pool_info = pool_info or models.BatchPoolInfo(pool_id=pool_id)
        return models.BatchJobSpecification(
            pool_info=pool_info, all_tasks_complete_mode=when_done, **members
        )

    def schedule(self, **times):
        """`do_not_run_until`, `do_not_run_after`, `start_window`, `recurrence_interval`"""
        return models.BatchJobScheduleConfiguration(**times)

    def create_schedule(self, id, schedule, specification, metadata=None):
        options = models.BatchJobScheduleCreateOptions(
            id=id, schedule=schedule, job_specification=specification, metadata=self.metadata(metadata)
        )
        self.client.create_job_schedule(options)

    def get_schedule(self, id):
        return self.client.get_job_schedule(id)

    def list_schedules(self, filter=None):
        return list(self.client.list_job_schedules(filter=filter))

    def list_schedule_jobs(self, id):
        return list(self.client.list_jobs_from_schedule(id))

    def patch_schedule(self, id, **members):
        self.client.update_job_schedule(id, models.BatchJobScheduleUpdateOptions(**members))

    def replace_schedule(self, id, schedule, specification):
        replaced = models.BatchJobSchedule(schedule=schedule, job_specification=specification)
        self.client.replace_job_schedule(id, replaced)

    def disable_schedule(self, id):
        self.client.disable_job_schedule(id)

    def enable_schedule(self, id):
        self.client.enable_job_schedule(id)

    def terminate_schedule(self, id):
        self.client.begin_terminate_job_schedule(id, polling_interval=POLLING)

    def delete_schedule(self, id):
        self.client.begin_delete_job_schedule(id, polling_interval=POLLING)

    # -- tasks ----------------------------------------------------------------------------------------------------

    def create_task(self, job, task):
        self.client.create_task(job, task)

    def create_tasks(self, job, tasks) -> list:
        return self.client.create_tasks(job, tasks).result_values

    def get_task(self, job, id, select=None, **conditions):
        return self.client.get_task(job, id, select=select, **_conditions(conditions))

    def list_tasks(self, job, filter=None, select=None):
        return list(self.client.list_tasks(job, filter=filter, select=select))

    def task_pages(self, job, page_size, filter=None) -> list[list]:
        return [list(page) for page in self.client.list_tasks(job, filter=filter, max_results=page_size).by_page()]

    def replace_task(self, job, id, constraints, **conditions):
        self.client.replace_task(job, id, models.BatchTask(constraints=constraints), **_conditions(conditions))

    def terminate_task(self, job, id):
        self.client.terminate_task(job, id)

    def reactivate_task(self, job, id):
        self.client.reactivate_task(job, id)

    def delete_task(self, job, id, **conditions):
        self.client.delete_task(job, id, **_conditions(conditions))

    # -- files ----------------------------------------------------------------------------------------------------

    def read_task_file(self, job, task, path, range=None, **conditions) -> bytes:
        return b"".join(self.client.download_task_file(job, task, path, ocp_range=range, **conditions))

    def task_file(self, job, task, path) -> FileProperties:
        return _properties(self.client.get_task_file_properties(job, task, path))

    def list_task_files(self, job, task, recursive=None, filter=None):
        return list(self.client.list_task_files(job, task, recursive=recursive, filter=filter))

    def task_file_pages(self, job, task, page_size) -> list[list]:
        paged = self.client.list_task_files(job, task, recursive=True, max_results=page_size)
        return [list(page) for page in paged.by_page()]

    def delete_task_file(self, job, task, path, recursive=None):
        self.client.delete_task_file(job, task, path, recursive=recursive)

    def read_node_file(self, pool, node, path, range=None) -> bytes:
        return b"".join(self.client.download_node_file(pool, node, path, ocp_range=range))

    def node_file(self, pool, node, path) -> FileProperties:
        return _properties(self.client.get_node_file_properties(pool, node, path))

    def list_node_files(self, pool, node, recursive=None, filter=None):
        return list(self.client.list_node_files(pool, node, recursive=recursive, filter=filter))

    def delete_node_file(self, pool, node, path, recursive=None):
        self.client.delete_node_file(pool, node, path, recursive=recursive)

    @staticmethod
    def _finish(poller, wait):
        if wait:
            poller.result(60)
            assert poller.done(), "the poller is still waiting after 60 s"


def _properties(file) -> FileProperties:
    return FileProperties(
        length=file.content_length,
        modified=file.last_modified,
        is_directory=file.is_directory,
        mode=file.file_mode,
        url=file.url,
    )
