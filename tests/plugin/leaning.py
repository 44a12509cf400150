"""Tables of what the plugin leans on, by the place that has it; leafe_verl/plugin/README.md says why.

A place is FILE:NAME, where NAME is a class, a function or a method of the file, and may be empty for the whole file.
"""

BASE = "verl/trainer/ppo/v1/trainer_base.py"
BUFFER = "verl/trainer/ppo/v1/replay_buffer.py"
LOOPS = "verl/trainer/ppo/v1/agent_loop_tq.py"
AGENT_LOOP = "verl/experimental/agent_loop/agent_loop.py"
WORKERS = "verl/workers/engine_workers.py"
ENGINE = "verl/workers/engine/fsdp/transformer_impl.py"
SERVER = "verl/workers/rollout/vllm_rollout/vllm_async_server.py"
SGLANG = "verl/workers/rollout/sglang_rollout"

MESSAGES = {
    "No available servers in load balancer": "verl/workers/rollout/router.py:GlobalRequestLoadBalancer.acquire_server",
    "EngineDeadError": "vllm/v1/engine/exceptions.py:EngineDeadError",
    "no materializable trajectories": f"{BUFFER}:ReplayBuffer.sample",
}
"""Errors of theirs that we recognise by their text."""

STRINGS = {
    # Files of a checkpoint.
    f"{BASE}:PPOTrainer._save_checkpoint": "latest_checkpointed_iteration.txt data.pt global_step_ actor",
    "verl/utils/checkpoint/fsdp_checkpoint_manager.py:FSDPCheckpointManager.save_checkpoint": (
        "fsdp_config.json huggingface"
    ),
    "verl/utils/checkpoint/fsdp_checkpoint_manager.py:FSDPCheckpointManager._save_lora_train_meta": (
        "lora_train_meta.json"
    ),
    "verl/model_merger/base_model_merger.py:BaseModelMerger.save_lora_adapter": (
        "lora_adapter adapter_config.json adapter_model.safetensors base_model.model. lora_"
    ),
    # A row of the data set, as verl hands it to an agent loop.
    "verl/utils/dataset/rl_dataset.py:RLHFDataset.__getitem__": "extra_info index",
    f"{LOOPS}:AgentLoopWorkerTQ.generate_sequences": "agent_name global_steps",
    f"{LOOPS}:AgentLoopWorkerTQ._run_prompt": "uid validate session_id __rollout_n__ train failure",
    f"{BASE}:PPOTrainer._validate": "__rollout_n__ extra_fields",
    # An agent loop's output, and what TransferQueue keeps of it.
    f"{AGENT_LOOP}:AgentLoopOutput.as_dict": "response_mask prompts responses",
    f"{LOOPS}:AgentLoopWorkerTQ._agent_loop_postprocess": (
        "reward_extra_info min_global_steps max_global_steps seq_len loss_mask input_ids"
    ),
    # Calls of tools.
    "verl/experimental/agent_loop/tool_parser.py:HermesToolParser": "tool_call_start_token",
    "verl/experimental/agent_loop/tool_agent_loop.py:ToolAgentLoop": "tools_kwargs create_kwargs agent_data",
    f"{BUFFER}:ReplayBuffer._sync_metadata_from_transfer_queue": "status failure",
    # A request to an inference server, and its answer.
    f"{SERVER}:vLLMHttpServer.generate": "max_tokens seed num_cached_tokens global_steps aborted",
    "vllm/sampling_params.py:SamplingParams": (
        "structured_outputs temperature stop stop_token_ids include_stop_str_in_output"
    ),
    # What a batch tells the training workers.
    f"{BASE}:PPOTrainer._update_actor": "global_batch_size mini_batch_size epochs seed dataloader_kwargs temperature",
    f"{WORKERS}:TrainingWorker.train_mini_batch": "mini_batch_size epochs seed dataloader_kwargs metrics",
    f"{WORKERS}:TrainingWorker.train_batch": (
        "use_dynamic_bsz micro_batch_size_per_gpu global_token_num use_remove_padding update_lr_scheduler"
    ),
    f"{ENGINE}:FSDPEngine.forward_backward_batch": "dp_size loss_mask",
    f"{ENGINE}:FSDPEngineWithLMHead.prepare_model_outputs": "log_probs",
    # Metrics and trackers.
    f"{BASE}:PPOTrainer._val_metrics_update": "acc val-core val-aux",
    f"{BASE}:PPOTrainer._compute_metrics": "training/global_step training/epoch",
    f"{BASE}:PPOTrainer._step_once": "gen",
    "verl/utils/tracking.py:FileLogger": "VERL_FILE_LOGGER_PATH step data",
    "verl/utils/tracking.py:Tracking": "tensorboard wandb",
    # Environment variables, command lines, names in registries.
    "verl/plugin/platform/platform_manager.py:_detect_platform_name": "VERL_PLATFORM",
    f"{SERVER}:vLLMHttpServer": "VLLM_BATCH_INVARIANT",
    "vllm/envs.py:": "VLLM_CPU_KVCACHE_SPACE VLLM_CPU_NUM_OF_RESERVED_CPU VLLM_ENABLE_V1_MULTIPROCESSING",
    "ray/_private/ray_constants.py:": "RAY_RUNTIME_ENV_HOOK RAY_RAYLET_PID RAY_JOB_ID RAY_ADDRESS runtime_resources",
    "ray/_private/workers/default_worker.py:": "--raylet-name",
    "verl/single_controller/ray/base.py:": "RAY_LOCAL_WORLD_SIZE",
    "transfer_queue/interface.py:": "TransferQueueController transfer_queue",
    "verl/utils/checkpoint/fsdp_checkpoint_manager.py:FSDPConfig": "world_size",
    "verl/utils/torch_functional.py:": "VERL_DISABLE_FLASH_ATTN_CE",
    "ray/_private/runtime_env/constants.py:": "RAY_JOB_CONFIG_JSON_ENV_VAR",
    "ray/_private/runtime_env/py_executable.py:": "py_executable",
    "verl/third_party/vllm/__init__.py:": "vllm",
    f"{ENGINE}:": "language_model",
    f"{BASE}:PPOTrainer._build_replay_buffer": "sync",
    "verl/utils/import_utils.py:": "pkg://",
    "verl/model_merger/base_model_merger.py:": "--backend --local_dir --target_dir",
}
"""Names, keys and files of theirs that our code spells too."""

CODE = {
    "transfer_queue/interface.py:": {
        'ray.get_actor("TransferQueueController", namespace="transfer_queue")': "a dead controller is waited for"
    },
    "verl/model_merger/fsdp_model_merger.py:": {".bfloat16()": "weights are rounded in another way"},
    # Loading and launching.
    "verl/__init__.py:": {'_entry_points(group="verl.plugins")': "verl does not load the plugin"},
    "vllm/plugins/__init__.py:": {'"vllm.general_plugins"': "vLLM does not load the weight patch"},
    "verl/trainer/ppo/v1/__init__.py:": {
        "trainer_sync": "register.py waits for the import of a module that nothing imports: no trainer mode of ours"
    },
    "verl/trainer/main_ppo.py:TaskRunnerV1.run": {
        "get_trainer_cls(config.trainer.v1.trainer_mode)": "verl's own trainer runs"
    },
    "verl/trainer/main_ppo.py:TaskRunnerV1.init_agent_loop_manager": {
        'get("agent_loop_manager_class")': "verl's own rollout workers run",
        "llm_client=self.trainer.get_llm_client()": "requests are not sent again when a server dies",
    },
    "verl/trainer/main_ppo.py:run_ppo": {
        "OmegaConf.merge(default_runtime_env, runtime_env_kwargs)": (
            "workers do not see the variables of ray_kwargs.ray_init.runtime_env"
        )
    },
    "hydra/_internal/callbacks.py:Callbacks._notify": {
        "except Exception as e": "a refusal, which is a SystemExit, becomes a warning and the run starts"
    },
    "hydra/core/utils.py:run_job": {
        "ret.return_value = e ret.status = JobStatus.FAILED": "a failed run ends without its cause",
        "callbacks.on_job_end(config=config, job_return=ret)": "the end of a run is not said",
    },
    # The trainer.
    f"{BASE}:PPOTrainer.__init__": {
        "self.trainer_mode = self.config.trainer.v1.trainer_mode": "verl takes our modes for asynchronous ones"
    },
    f"{BASE}:PPOTrainer._build_replay_buffer": {
        'ReplayBuffer if self.trainer_mode == "sync" else ReplayBufferAsync': "`trainer_mode` need not be overridden",
        "load_extern_type(custom_sampler.path, custom_sampler.name)": "verl's own replay buffer runs",
    },
    f"{BASE}:PPOTrainer._init_resource_pool_mgr": {
        "self.role_worker_mapping[role] = ray.remote(ActorRolloutRefWorker)": "verl's PPO role trains"
    },
    f"{BASE}:PPOTrainer._setup": {
        'getattr(self, "_enable_hybrid_replicas", True)': "stage 2 alone starts inference servers",
        "self.llm_server_manager": "dead servers cannot be found",
    },
    f"{BASE}:PPOTrainer._init_dataloader": {
        "self.train_dataloader = StatefulDataLoader( dataset=self.train_dataset, batch_size=gen_batch_size, "
        'num_workers=self.config.data["dataloader_num_workers"], drop_last=True, collate_fn=collate_fn, sampler=': (
            "the data loader of a curriculum differs from verl's in more than its sampler"
        )
    },
    f"{BASE}:PPOTrainer._balance_batch": {
        "worker_group._query_dispatch_info(role)": "the number of data-parallel ranks is not known"
    },
    f"{BASE}:PPOTrainer.fit": {
        "self.config.trainer.save_freq > 0 and ( is_last_step or": "no checkpoint is written at the end of a run",
        "self.logger = Tracking(": "branches go to no tracker",
    },
    f"{BASE}:PPOTrainer._save_checkpoint": {
        'self.config.trainer.get("max_actor_ckpt_to_keep", None)': "verl removes the best checkpoint"
    },
    "verl/utils/tracking.py:_TensorboardAdapter.__init__": {
        "self.writer = SummaryWriter(": "branches do not go to TensorBoard"
    },
    "verl/trainer/ppo/metric_utils.py:process_validation_metrics": {
        "if not var_vals or isinstance(var_vals[0], str): continue": "verl averages the texts that carry attempts"
    },
    "verl/trainer/ppo/v1/utils.py:compute_advantage_for_multi_trajectories": {
        'key.rsplit("_", 2)': "an attempt of several sequences weighs more than one in its group of GRPO"
    },
    # The replay buffer.
    f"{BUFFER}:ReplayBuffer._wait_for_next_poll": {
        "time.sleep(self.poll_interval)": "the trainer notices a finished task up to two seconds late"
    },
    f"{BUFFER}:ReplayBuffer.sample": {
        "self._sync_metadata_from_transfer_queue()": "a dead controller of TransferQueue is waited for",
        "self._wait_for_next_poll(partition_id, last_debug_time)": "dead workers and servers are not noticed",
    },
    f"{BUFFER}:ReplayBuffer.__init__": {
        f"self.{name}": "the progress bar and the watch over workers have nothing to read"
        for name in ("poll_interval", "pending_keys", "running_keys", "finished_keys", "failure_keys")
    },
    # Rollout workers and agent loops.
    f"{LOOPS}:AgentLoopManagerTQ.__init__": {
        "self.agent_loop_workers_class = AgentLoopWorkerTQ": "verl's own rollout workers run"
    },
    f"{AGENT_LOOP}:AgentLoopManager._init_agent_loop_workers": {
        ".remote( self.config, self.llm_client, self.teacher_client, self.reward_loop_worker_handles, )": (
            "a worker that replaces a dead one is started with other arguments"
        )
    },
    f"{AGENT_LOOP}:AgentLoopWorker._run_agent_loop": {
        "server_manager=self.llm_client": "agent loops do not find the state that their process shares"
    },
    f"{LOOPS}:AgentLoopWorkerTQ._agent_loop_postprocess": {
        "output.reward_score = final_output.reward_score": "the outputs of one attempt do not share its reward",
        'keys.append(f"{uid}_{session_id}_{i}")': "keys of TransferQueue have another form",
    },
    "verl/utils/tokenizer/continuous_token_wiring.py:infer_continuous_token_model_family": {
        "logger.warning": "the warning that we let through once is another one, or none"
    },
    # Inference servers.
    "verl/workers/rollout/llm_server.py:LLMServerManager": {
        f"self.{name} =": "a dead server is not replaced"
        for name in ("rollout_replicas", "server_handles", "server_addresses", "global_load_balancer")
    },
    "verl/workers/rollout/replica.py:RolloutReplica": {"self.servers": "a dead server is not found"},
    "verl/workers/rollout/llm_server.py:LLMServerClient._vllm_request_id": {
        "return request_id": "two requests of one tree have the same id under full determinism"
    },
    f"{SERVER}:vLLMHttpServer.generate": {
        'sampling_params.setdefault("seed", self.replica_rank + self.config.seed)': "our seeds are overwritten",
        "SamplingParams(max_tokens=max_tokens, **sampling_params)": "grammar, seed and stop do not reach vLLM",
    },
    "verl/workers/rollout/vllm_rollout/vllm_rollout.py:ServerAdapter._ensure_server_handle": {
        "if self.server_handle is None": "weights go to the dead server instead of the one that replaced it"
    },
    f"{SERVER}:vLLMReplica.launch_servers": {"self._server_handle = self.servers[0]": "a dead server is not replaced"},
    f"{SGLANG}/async_sglang_server.py:SGLangHttpServer.generate": {
        '"sampling_params": sampling_params,': "grammar, seed and stop do not reach SGLang"
    },
    f"{SGLANG}/sglang_rollout.py:ServerAdapter._init_server_adapter": {
        "if self._engine is not None: return": "weights go to the dead server instead of the one that replaced it"
    },
    "vllm/v1/engine/detokenizer.py:BaseIncrementalDetokenizer.update": {
        # Only the text is cut at a stop string.
        "self.token_ids.append(new_token_id)": "an action that vLLM stopped at a fence lacks the fence's tokens"
    },
    "vllm/v1/engine/async_llm.py:AsyncLLM.errored": {"engine_dead": "a dead engine counts as alive"},
    # Training workers and the engine.
    f"{WORKERS}:ActorRolloutRefWorker.init_model": {
        "self.actor = self.actor_worker_cls(config=actor_training_config)": "verl's PPO worker trains, with its loss",
        'self.base_sync_done: bool = "dummy" not in self.config.rollout.load_format': (
            "with LoRA a server that is started again samples from random base weights"
        ),
    },
    f"{WORKERS}:ActorRolloutRefWorker.update_weights": {
        code: "with LoRA a server that is started again samples from random base weights"
        for code in ("do_lora_base_sync = not self.base_sync_done", "self.base_sync_done = True")
    },
    f"{WORKERS}:TrainingWorker.__init__": {
        "EngineRegistry.new( model_type=self.config.model_type": "verl's own engine trains: no prefix is shared",
        "self.model_config.model_type = self.config.model_type": "verl's own engine trains: no prefix is shared",
    },
    f"{WORKERS}:TrainingWorker.train_mini_batch": {
        "self.train_batch(mini_batch_td)": "examples are not merged, and the tokens of loss terms are not counted",
        "update_lr_scheduler=batch_idx == total_num_iterations - 1": "the learning rate's schedule counts otherwise",
    },
    f"{WORKERS}:TrainingWorker.train_batch": {
        "if key not in data.keys(): tu.assign_non_tensor": "verl overwrites the micro-batch size of prefix trees",
        'update_lr_scheduler = tu.get(data, key="update_lr_scheduler", default=False)': (
            "the learning rate's schedule counts phases"
        ),
    },
    f"{ENGINE}:FSDPEngineWithLMHead.forward_step": {
        "self.prepare_model_inputs(": "prefix trees are computed as if they were sequences",
        "self.prepare_model_outputs(": "prefix trees are computed as if they were sequences",
    },
    f"{ENGINE}:FSDPEngine": {
        "self.use_ulysses_sp =": "ranks of one sequence do not share a prefix tree",
        "self.ulysses_parallel_group =": "ranks of one sequence do not share a prefix tree",
    },
    "verl/workers/config/actor.py:FSDPActorConfig.__post_init__": {
        "if self.ulysses_sequence_parallel_size > 1: self.fsdp_config.ulysses_sequence_parallel_size = "
        "self.ulysses_sequence_parallel_size": "the checks count other ranks of a sequence than verl does"
    },
    "verl/workers/engine/utils.py:prepare_micro_batches": {
        "max_token_len = max_token_len_per_gpu * sp_size": "a prefix tree holds fewer or more tokens than it may"
    },
    f"{ENGINE}:FSDPEngine._build_lr_scheduler": {
        "total_steps = optim_config.total_training_steps": "one training step is the whole schedule of collect=all"
    },
    f"{ENGINE}:FSDPEngine.lr_scheduler_step": {
        "self.lr_scheduler.step()": "one training step is the whole schedule of collect=all"
    },
    f"{ENGINE}:EngineTrainModeCtx.__enter__": {
        "set_ulysses_sequence_parallel_group(self.engine.ulysses_parallel_group)": (
            "ranks of one sequence attend to their own part of a prefix tree"
        )
    },
    # Attention over prefix trees.
    "transformers/models/llama/modeling_llama.py:LlamaAttention.forward": {
        "self.config._attn_implementation, eager_attention_forward": "siblings of a prefix tree see each other"
    },
    "transformers/models/qwen2/modeling_qwen2.py:Qwen2Attention.forward": {
        "self.config._attn_implementation, eager_attention_forward": "siblings of a prefix tree see each other"
    },
    "transformers/models/llama/modeling_llama.py:LlamaForCausalLM.forward": {
        "if isinstance(logits_to_keep, int) else logits_to_keep": "logits are not those of the trained tokens"
    },
    # Running without a GPU.
    "verl/plugin/platform/platform_manager.py:_detect_platform_name": {
        'return "nvidia"': "verl does not fall back to the platform that we replace"
    },
    "verl/utils/distributed.py:initialize_global_process_group_ray": {
        "if not torch.distributed.is_initialized()": "verl asks torch for a backend that it refuses"
    },
    "vllm/model_executor/layers/linear.py:UnquantizedLinearMethod.process_weights_after_loading": {
        # Imported when it is called, so that the patched function is found.
        "from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm "
        "dispatch_cpu_unquantized_gemm(layer, remove_weight=True)": "the first weight sync fails"
    },
    "vllm/model_executor/layers/utils.py:dispatch_cpu_unquantized_gemm": {
        "remove_weight: bool": "the patch refuses to start"
    },
    "vllm/v1/attention/backends/cpu_attn.py:CPUAttentionBackend.get_supported_kernel_block_sizes": {
        "return [MultipleOf(": "the prefix cache has blocks of 32 tokens, which may be more than it needs"
    },
    "vllm/v1/sample/ops/topk_topp_sampler.py:TopKTopPSampler.forward_cpu": {
        "compiled_random_sample(logits)": "vLLM's CPU build samples at half the speed"
    },
    "vllm/v1/sample/ops/topk_topp_sampler.py:compiled_random_sample": {
        "(logits: torch.Tensor)": "vLLM's CPU build samples at half the speed",
        "argmax(dim=-1).view(-1)": "tokens have another shape than vLLM expects",
    },
    "verl/workers/rollout/vllm_rollout/utils.py:": {
        "process_weights_after_loading(model, model_config, self.device)": (
            "vLLM's CPU build samples from the packed weights before the sync"
        )
    },
    "verl/single_controller/ray/base.py:ResourcePoolManager": {
        "max_colocate_count: int = 3": "a cluster with too few of Ray's cores is not refused, or one with enough is"
    },
    "ray/_private/worker.py:": {
        "load_class(os.environ[ray_constants.RAY_RUNTIME_ENV_HOOK])(runtime_env)": "Ray's workers are not forked",
        "if num_cpus is not None or num_gpus is not None: raise": "sizes need not be left out to join a cluster",
        "if _system_config is not None and len(_system_config) != 0: raise": (
            "_system_config need not be left out to join a cluster"
        ),
    },
    "ray/_private/services.py:get_ray_address_from_environment": {
        "bootstrap_addr = find_bootstrap_address(temp_dir)": "whether Ray joins a cluster is decided otherwise"
    },
    "ray/_common/utils.py:get_default_system_temp_dir": {
        'if "RAY_TMPDIR" in os.environ: return os.environ["RAY_TMPDIR"]': "a long folder is not refused",
        'sys.platform.startswith("linux") and "TMPDIR" in os.environ': "TMPDIR does not decide where sockets are",
    },
    "ray/_private/node.py:": {
        'f"session_{date_str}_{os.getpid()}"': "the length of a socket's path is another",
        'default_prefix="plasma_store"': "the longest name of a socket is another",
    },
    "ray/_private/runtime_env/context.py:": {"self.py_executable": "Ray's workers are not forked"},
    "ray/actor.py:": {"def __ray_call__": "a server cannot be asked whether its engine lives"},
}
"""Code of theirs whose form we count on, blanks aside, with what goes wrong without it."""

ORDER = {
    f"{BASE}:PPOTrainer._step_once": """on_sample_begin( replay_buffer.sample( on_sample_end( _balance_batch(
        _compute_old_log_prob( _compute_advantage( _update_actor(""",
    f"{BASE}:PPOTrainer.fit": "on_train_begin( step( _save_checkpoint( on_step_end( _validate() _compute_metrics(",
    f"{BASE}:PPOTrainer._setup": "_init_dataloader( _init_resource_pool_mgr( _load_checkpoint(",
}
"""Hooks that verl calls, each `self.HOOK`, in the order that ours count on."""

HOOKS = {
    "PPOTrainer": """_setup get_llm_client _init_dataloader _init_resource_pool_mgr _load_checkpoint _save_checkpoint
        step on_train_begin on_validate_begin on_sample_begin _balance_batch _compute_old_log_prob _compute_advantage
        _update_actor _compute_metrics _validate _val_metrics_update""",
    "PPOTrainerSync": "on_init_end on_step_end on_sample_end",
    "ReplayBuffer": "sample _sync_metadata_from_transfer_queue _wait_for_next_poll",
    "RLHFDataset": "_download _read_files_and_tokenize",
    "AgentLoopBase": "run",
    "AgentLoopWorkerTQ": "_run_prompt",
    "AgentLoopManagerTQ": "generate_sequences",
    "LLMServerClient": "generate",
    "ContinuousTokenBuilder": "_render_tokens _tokenize_single_non_tool _tokenize_tool_group",
    "ActorRolloutRefWorker": "init_model update_weights actor_worker_cls",
    "TrainingWorker": "infer_batch train_batch train_mini_batch",
    "FSDPEngine": "_build_module forward_backward_batch",
    "FSDPEngineWithLMHead": "prepare_model_inputs prepare_model_outputs",
}
"""What we override, by the class of verl that defines it; constructors, the platform and Hydra's callbacks left out."""

CALLS = {
    "verl.workers.rollout.llm_server:LLMServerManager.get_client": "client_cls",
    "verl.workers.rollout.llm_server:LLMServerManager.get_replicas": "",
    "verl.workers.rollout.llm_server:LLMServerClient.generate": "request_id prompt_ids sampling_params",
    "verl.workers.rollout.router:GlobalRequestLoadBalancer.add_servers": "servers",
    "verl.workers.rollout.router:GlobalRequestLoadBalancer.remove_servers": "server_ids",
    "verl.workers.rollout.router:GlobalRequestLoadBalancer.get_all_servers": "",
    "verl.workers.rollout.replica:RolloutReplica.launch_servers": "",
    "verl.checkpoint_engine:CheckpointEngineManager.update_weights": "global_steps",
    "verl.checkpoint_engine:CheckpointEngineManager.abort_replicas": "",
    "verl.checkpoint_engine:CheckpointEngineManager.resume_generation_replicas": "",
    "verl.trainer.ppo.padding_utils:upsample_batch_to_divisible_size": "batch batch_multiple eos_token_id",
    "verl.trainer.ppo.v1.trainer_base:register_trainer": "name",
    "verl.experimental.agent_loop.agent_loop:register": "agent_name",
    "verl.workers.engine:EngineRegistry.register": "model_type backend device",
    "verl.plugin.platform:PlatformRegistry.register": "platform",
    "verl.plugin.platform:PlatformBase.is_platform_available": "use_smi_check",
    "verl.plugin.platform:set_platform": "platform",
    "verl.utils.distributed:initialize_global_process_group_ray": "backend",
    "verl.utils.tokenizer.continuous_token_wiring:create_continuous_token_builder": (
        "tokenizer model_family hf_model_type chat_template_kwargs"
    ),
    "verl.utils.tokenizer.continuous_token_wiring:list_continuous_token_builder_families": "",
    "verl.utils.tokenizer.continuous_token:ContinuousTokenBuilder.build_initial_tokens": "messages tools",
    "verl.utils.tokenizer.continuous_token:ContinuousTokenBuilder.tokenize_context_incremental_messages": (
        "previous_messages updated_messages tools"
    ),
    "verl.utils.tokenizer:hf_tokenizer": "name_or_path",
    "verl.utils.tokenizer.continuous_token:ContinuousTokenBuilder.merge_context_tokens": (
        "previous_messages updated_messages runtime_token_ids tools"
    ),
    "verl.utils.tokenizer.continuous_token:ContinuousTokenBuilder._synthetic_assistant_for_tools": "tool_messages",
    "verl.experimental.agent_loop.tool_parser:ToolParser.get_tool_parser": "name tokenizer",
    "verl.experimental.agent_loop.tool_parser:HermesToolParser.extract_tool_calls": "responses_ids tools",
    "vllm.tool_parsers.llama_tool_parser:Llama3JsonToolParser.extract_tool_calls": "model_output request",
    "verl.tools.tool_registry:load_all_tools": "tool_config_path function_tool_path",
    "verl.tools.function_tool:normalize_function_tool_return": "ret",
    "verl.tools.base_tool:BaseTool.create": "instance_id",
    "verl.tools.base_tool:BaseTool.execute": "instance_id parameters",
    "verl.tools.base_tool:BaseTool.release": "instance_id",
    "verl.utils.import_utils:load_extern_object": "module_path object_name",
    "verl.utils.reward_score:default_compute_score": "data_source solution_str ground_truth extra_info",
    "verl.workers.utils.padding:no_padding_2_padding": "tensor data",
    "verl.utils.torch_functional:logprobs_from_logits": "logits labels",
    "verl.utils.ulysses:gather_seq_scatter_heads": "seq_dim head_dim",
    "verl.utils.ulysses:gather_heads_scatter_seq": "seq_dim head_dim",
    "verl.utils.ulysses:gather_outputs_and_unpad": "gather_dim",
    "verl.utils.ulysses:get_ulysses_sequence_parallel_rank": "group",
    "verl.utils.tensordict_utils:get_non_tensor_data": "data key default",
    "verl.utils.tensordict_utils:assign_non_tensor": "",
    "verl.utils.tensordict_utils:index_select_tensor_dict": "",
    "verl.utils.metric:reduce_metrics": "metrics",
    "verl.workers.engine.fsdp.transformer_impl:FSDPEngine._build_lr_scheduler": "optimizer",
    "verl.utils.py_functional:rename_dict": "",
    "verl.utils.debug:marked_timer": "name timing_raw color",
    "verl.single_controller.base.decorator:register": "dispatch_mode blocking",
    "ray._private.utils:read_ray_address": "",
    "ray._private.utils:get_num_cpus": "",
    "ray.util:list_named_actors": "all_namespaces",
    "verl.utils.device:get_torch_device": "",
    "transfer_queue:kv_list": "partition_id",
    "transfer_queue:kv_put": "key partition_id tag",
    "transfer_queue:kv_batch_get": "keys partition_id select_fields",
    "transfer_queue:kv_batch_put": "keys partition_id fields",
    "transfer_queue:kv_clear": "keys partition_id",
    "transformers:AttentionInterface.register": "",
    "transformers.utils.import_utils:is_flash_attn_2_available": "",
    "transformers.integrations.sdpa_attention:sdpa_attention_forward": (
        "module query key value attention_mask dropout scaling is_causal"
    ),
}
"""Functions of theirs that we call, with the parameters that we name."""

ATTRIBUTES = {
    "verl.experimental.agent_loop.agent_loop:AgentLoopOutput": """prompt_ids response_ids response_mask
        response_logprobs reward_score num_turns metrics extra_fields""",
    "verl.experimental.agent_loop.agent_loop:AgentLoopMetrics": "generate_sequences",
    "verl.workers.rollout.replica:TokenOutput": "token_ids log_probs stop_reason extra_fields",
    "verl.workers.rollout.replica:RolloutReplica": "server_handle server_address",
    "verl.workers.config:TrainingWorkerConfig": "model_type engine_config",
    "verl.workers.config:FSDPEngineConfig": """strategy use_dynamic_bsz micro_batch_size_per_gpu
        max_token_len_per_gpu ulysses_sequence_parallel_size""",
    "verl.workers.config:FSDPOptimizerConfig": "total_training_steps",
    "verl.utils.tokenizer.continuous_token:MergeResult": "token_ids",
    "verl.workers.engine:EngineRegistry": "_engines",
    "verl.trainer.ppo.v1.trainer_base:": "TRAINER_REGISTRY",
    "verl.utils.metric.utils:AggregationType": "SUM",
    "verl.single_controller.base:Worker": "_query_dispatch_info",
    "hydra.core.utils:JobReturn": "status _return_value",
    "transfer_queue:KVBatchMeta": "keys tags partition_id extra_info",
    "transformers:PretrainedConfig": "_attn_implementation",
    "transformers:PreTrainedModel": "_supports_attention_backend _supports_sdpa",
}
"""Attributes that we read or set, fields of models and of dataclasses among them."""

OUR_DATA_KEYS = ("environment", "several_answers", "store", "given", "attempts")
OUR_CONFIG_KEYS = ("leafe", "run_dir", *(f"data.{key}" for key in OUR_DATA_KEYS))
"""Keys of our configurations that verl does not know begin like this."""
HANDED_ON = (
    "ray_kwargs.ray_init.",  # to ray.init
    "actor_rollout_ref.rollout.engine_kwargs.vllm.",  # to vLLM's engine
    "actor_rollout_ref.model.override_config.",  # to the model's configuration in transformers
    "actor_rollout_ref.actor.fsdp_config.mixed_precision.",  # to torch
)
"""Keys whose values verl hands on as they are begin like this."""
