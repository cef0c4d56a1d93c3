"""The tables of optimizers, of what wraps them, and of schedules."""

from tests.comparison.table import Cell, Section, named, row

ALL = ("purenets", "torch", "optax", "torchopt")
# of the values of a step, since what it updates are pairs of params
OPTAX_LOOKAHEAD = (
    "lambda count: (lambda optimizer, params: optimizer.update({'w': count * 1.0}, "
    "optimizer.init(params), params)[0].fast['w'])(optax.lookahead(optax.sgd(lr), 2, 0.5), "
    "optax.LookaheadParams.init_synced({'w': lr}))"
)
OPTIMIZERS = [
    row(
        "SGD",
        "sgd",
        purenets="optim.sgd",
        torch=named("SGD"),
        optax="sgd",
        torchopt=Cell("sgd", vmap="params"),
    ),
    row(
        "Nesterov's momentum",
        "sgd",
        purenets="optim.nesterov",
        torch=named("SGD"),
        optax=Cell("sgd", "optax.sgd(lr, 0.9, nesterov=True)"),
        torchopt=Cell("sgd", "torchopt.sgd(lr, 0.9, nesterov=True)", "params"),
    ),
    row(
        "RMSProp",
        "rmsprop",
        purenets="optim.rmsprop",
        torch=named("RMSprop"),
        optax="rmsprop",
        torchopt=Cell("rmsprop", vmap="params"),
    ),
    row(
        "Adagrad",
        "adagrad",
        purenets="optim.adagrad",
        torch=named("Adagrad"),
        optax="adagrad",
        torchopt=Cell("adagrad", vmap="params"),
    ),
    row(
        "Adadelta",
        "adadelta",
        purenets="optim.adadelta",
        torch=named("Adadelta"),
        optax="adadelta",
        torchopt=Cell("adadelta", vmap="params"),
    ),
    row(
        "Adam",
        "adam",
        purenets="optim.adam",
        torch=named("Adam"),
        optax="adam",
        torchopt=Cell("adam", vmap="params"),
    ),
    row(
        "AdamW",
        "adamw",
        purenets="optim.adamw",
        torch=named("AdamW"),
        optax="adamw",
        torchopt=Cell("adamw", vmap="params"),
    ),
    row(
        "Adamax",
        "adamax",
        purenets="optim.adamax",
        torch=named("Adamax"),
        optax="adamax",
        torchopt=Cell("adamax", vmap="params"),
    ),
    row("NAdam", "nadam", purenets="optim.nadam", torch=named("NAdam"), optax="nadam"),
    row(
        "RAdam",
        "radam",
        purenets="optim.radam",
        torch=named("RAdam"),
        optax="radam",
        torchopt=Cell("radam", vmap="params"),
    ),
    row(
        "Adafactor",
        "adafactor",
        purenets="optim.adafactor",
        torch=named("Adafactor"),
        optax="adafactor",
    ),
    row("ASGD", "asgd", purenets="optim.asgd", torch=named("ASGD")),
    row("Rprop", "rprop", purenets="optim.rprop", torch=named("Rprop"), optax="rprop"),
    row(
        "Muon",
        "muon",
        purenets="optim.muon",
        torch=named("Muon"),
        optax="contrib.muon",
    ),
    row(
        "L-BFGS, with line search",
        "lbfgs",
        purenets=Cell(
            "optim.lbfgs",
            "purenets.optim.lbfgs(lr, 3, history_size=3, line_search_fn='strong_wolfe')",
        ),
        torch=named("LBFGS"),
        optax=Cell("lbfgs", "optax.lbfgs(memory_size=3)"),
    ),
    row("Lion", "lion", purenets="optim.lion", optax="lion"),
    row("LAMB", "lamb", purenets="optim.lamb", optax="lamb"),
    row("LARS", "lars", purenets="optim.lars", optax="lars"),
    row(
        "Schedule-free AdamW",
        "schedulefree schedulefreeadamw",
        purenets="optim.schedule_free_adamw",
        optax="contrib.schedule_free_adamw",
    ),
    row("Adan", "adan", purenets="optim.adan", optax="adan"),
    row("ADOPT", "adopt", purenets="optim.adopt", optax="contrib.adopt"),
    row("AdEMAMix", "ademamix", purenets="optim.ademamix", optax="contrib.ademamix"),
    row("Sophia", "sophia", purenets="optim.sophia", optax="contrib.sophia"),
    row(
        "D-Adaptation",
        "dadapt dadaptadam",
        purenets="optim.dadapt_adam",
        optax="contrib.dadapt_adamw",
    ),
    row("Prodigy", "prodigy", purenets="optim.prodigy", optax="contrib.prodigy"),
    row("DoG", "dog", purenets="optim.dog", optax="contrib.dog"),
    row("Shampoo", "shampoo", purenets="optim.shampoo"),
    row(  # with a larger eps: rotated gradients may be 0 but for rounding, which a root enlarges
        "SOAP", "soap", purenets=Cell("optim.soap", "purenets.optim.soap(lr, eps=1e-3)")
    ),
    row("MoMo", "momo", purenets="optim.momo", optax="contrib.momo"),
    row("MoMo-Adam", "momo", purenets="optim.momo_adam", optax="contrib.momo_adam"),
    row("Polyak's step size", "polyak polyaksgd", purenets="optim.polyak", optax="polyak_sgd"),
    row(
        "Backtracking line search",
        "backtracking backtrackinglinesearch",
        purenets="optim.backtracking",
        optax=Cell(
            "scale_by_backtracking_linesearch",
            "optax.chain(optax.sgd(lr), optax.scale_by_backtracking_linesearch(9))",
        ),
    ),
    row(
        "Strong-Wolfe line search",
        "wolfe strongwolfe zoomlinesearch",
        purenets="optim.strong_wolfe",
        optax=Cell(
            "scale_by_zoom_linesearch",
            "optax.chain(optax.sgd(lr), optax.scale_by_zoom_linesearch(9))",
        ),
    ),
    row(
        "Sparse weights (β-lasso)",
        "lasso betalasso",
        purenets=Cell("optim.beta_lasso", "purenets.optim.beta_lasso(purenets.optim.sgd(lr), 0.1)"),
    ),
]
WRAPPERS = [
    row(
        "Different optimizers for parts of the params",
        "partition multitransform",
        purenets=Cell(
            "optim.partition",
            "purenets.optim.partition({'1': purenets.optim.sgd(lr), '2': purenets.optim.adam(lr)}, "
            "lambda name, leaf: str(leaf.ndim))",
        ),
        torch=named("SGD"),
        optax=Cell(
            "partition",
            "optax.partition({'w': optax.sgd(lr), 'b': optax.adam(lr)}, {'w': 'w', 'b': 'b'})",
        ),
    ),
    row(
        "Some leaves only",
        "masked",
        purenets=Cell(
            "optim.masked",
            "purenets.optim.masked(purenets.optim.sgd(lr), purenets.optim.is_matrix)",
        ),
        optax=Cell("masked", "optax.masked(optax.sgd(lr), {'w': True, 'b': False})"),
    ),
    row(
        "Accumulated gradients",
        "accumulate multisteps applyevery",
        purenets=Cell("optim.accumulate", "purenets.optim.accumulate(purenets.optim.sgd(lr), 2)"),
        optax=Cell("MultiSteps", "optax.MultiSteps(optax.sgd(lr), 2).gradient_transformation()"),
    ),
    row(
        "Skip non-finite updates",
        "applyiffinite skipnotfinite",
        purenets=Cell(
            "optim.apply_if_finite", "purenets.optim.apply_if_finite(purenets.optim.sgd(lr))"
        ),
        optax=Cell("apply_if_finite", "optax.apply_if_finite(optax.sgd(lr), 3)"),
    ),
    row(
        "Hyper-parameters in the state",
        "injecthyperparams",
        purenets=Cell(
            "optim.inject_hyperparams",
            "purenets.optim.inject_hyperparams(purenets.optim.sgd, lr=lr)",
        ),
        torch=named("SGD"),
        optax=Cell("inject_hyperparams", "optax.inject_hyperparams(optax.sgd)(learning_rate=lr)"),
    ),
    row(
        "Lookahead",
        "lookahead",
        purenets=Cell("optim.lookahead", "purenets.optim.lookahead(purenets.optim.sgd(lr))"),
        optax=Cell("lookahead", OPTAX_LOOKAHEAD),
    ),
    row(
        "Running mean of the params",
        "averagedmodel ema incrementalupdate",
        purenets=Cell(
            "optim.ema", "purenets.optim.chain(purenets.optim.sgd(lr), purenets.optim.ema())"
        ),
        torch=named("swa_utils.AveragedModel"),
        optax=Cell(
            "incremental_update", "lambda count: optax.incremental_update(lr, count * 1.0, 0.1)"
        ),
    ),
    row(
        "Stochastic weight averaging",
        "swa averagedmodel",
        purenets=Cell(
            "optim.swa", "purenets.optim.chain(purenets.optim.sgd(lr), purenets.optim.swa())"
        ),
        torch=named("swa_utils.AveragedModel"),
    ),
    row(
        "Reduce on plateau",
        "plateau reduceonplateau",
        purenets=Cell(
            "optim.reduce_on_plateau",
            "purenets.optim.chain(purenets.optim.sgd(lr), purenets.optim.reduce_on_plateau())",
        ),
        torch=named("lr_scheduler.ReduceLROnPlateau"),
        optax=Cell(
            "contrib.reduce_on_plateau",
            "optax.chain(optax.sgd(lr), optax.contrib.reduce_on_plateau())",
        ),
    ),
    row(
        "Clipping by global norm",
        "clipbyglobalnorm clipgradnorm",
        purenets=Cell("optim.clip_by_global_norm", "purenets.optim.clip_by_global_norm(lr)"),
        optax=Cell("clip_by_global_norm", "optax.clip_by_global_norm(lr)"),
        torchopt=Cell(
            "clip_grad_norm", "torchopt.chain(torchopt.clip_grad_norm(lr), torchopt.sgd(0.1))", ""
        ),
    ),
    row(
        "Schedule-free averaging",
        "schedulefree",
        purenets=Cell(
            "optim.schedule_free",
            "purenets.optim.schedule_free(purenets.optim.sgd(lr), lr)",
        ),
        optax=Cell("contrib.schedule_free", "optax.contrib.schedule_free(optax.sgd(lr), lr)"),
    ),
    row(
        "Weights of fixed length",
        "normalizeweights",
        purenets=Cell(
            "optim.normalize_weights", "purenets.optim.normalize_weights(purenets.optim.sgd(lr))"
        ),
    ),
    row(
        "Adaptive gradient clipping",
        "adaptivegradclip agc",
        purenets=Cell("optim.adaptive_grad_clip", "purenets.optim.adaptive_grad_clip(lr)"),
        optax=Cell("adaptive_grad_clip", "optax.adaptive_grad_clip(lr)"),
    ),
]
SCHEDULES = [
    row(
        "Constant",
        "constant",
        purenets="schedules.constant",
        torch=named("lr_scheduler.ConstantLR"),
        optax=Cell("constant_schedule", "optax.constant_schedule(lr)"),
    ),
    row(
        "Step",
        "step",
        purenets=Cell("schedules.step", "purenets.schedules.step(lr, 3)"),
        torch=named("lr_scheduler.StepLR"),
        optax=Cell("exponential_decay", "optax.exponential_decay(lr, 3, 0.1, staircase=True)"),
    ),
    row(
        "Multi-step",
        "multistep",
        purenets=Cell("schedules.multi_step", "purenets.schedules.multi_step(lr, [2, 5])"),
        torch=named("lr_scheduler.MultiStepLR"),
        optax=Cell(
            "piecewise_constant_schedule", "optax.piecewise_constant_schedule(lr, {2: 0.1, 5: 0.1})"
        ),
    ),
    row(
        "Exponential",
        "exponential",
        purenets=Cell("schedules.exponential", "purenets.schedules.exponential(lr, 0.9)"),
        torch=named("lr_scheduler.ExponentialLR"),
        optax=Cell("exponential_decay", "optax.exponential_decay(lr, 1, 0.9)"),
        torchopt=Cell(
            "schedule.exponential_decay",
            "torchopt.schedule.exponential_decay(lr, 1, 0.9)",
        ),
    ),
    row(
        "Polynomial",
        "polynomial",
        purenets=Cell("schedules.polynomial", "purenets.schedules.polynomial(lr, 0.0, 9, 2.0)"),
        torch=named("lr_scheduler.PolynomialLR"),
        optax=Cell("polynomial_schedule", "optax.polynomial_schedule(lr, 0.0, 2.0, 9)"),
        torchopt=Cell(
            "schedule.polynomial_schedule",
            "torchopt.schedule.polynomial_schedule(lr, 0.0, 2.0, 9)",
        ),
    ),
    row(
        "Linear",
        "linear",
        purenets=Cell("schedules.linear", "purenets.schedules.linear(lr, 0.0, 9)"),
        torch=named("lr_scheduler.LinearLR"),
        optax=Cell("linear_schedule", "optax.linear_schedule(lr, 0.0, 9)"),
        torchopt=Cell(
            "schedule.linear_schedule",
            "torchopt.schedule.linear_schedule(lr, 0.0, 9, 0)",
        ),
    ),
    row(
        "Cosine",
        "cosine",
        purenets=Cell("schedules.cosine", "purenets.schedules.cosine(lr, 9)"),
        torch=named("lr_scheduler.CosineAnnealingLR"),
        optax=Cell("cosine_decay_schedule", "optax.cosine_decay_schedule(lr, 9)"),
    ),
    row(
        "Cosine with warm restarts",
        "cosineannealingwarmrestarts sgdr",
        purenets=Cell("schedules.cosine_restarts", "purenets.schedules.cosine_restarts(lr, 4, 2)"),
        torch=named("lr_scheduler.CosineAnnealingWarmRestarts"),
        optax=Cell(
            "sgdr_schedule",
            "optax.sgdr_schedule([{'init_value': 0.0, 'peak_value': lr, 'decay_steps': 4, "
            "'warmup_steps': 1}] * 2)",
            "",
        ),
    ),
    row(
        "Cyclic",
        "cyclic",
        purenets=Cell("schedules.cyclic", "purenets.schedules.cyclic(0.0, lr, 3)"),
        torch=named("lr_scheduler.CyclicLR"),
    ),
    row(
        "One cycle",
        "onecycle cosineonecycle linearonecycle",
        purenets=Cell("schedules.one_cycle", "purenets.schedules.one_cycle(lr, 20)"),
        torch=named("lr_scheduler.OneCycleLR"),
        optax=Cell("cosine_onecycle_schedule", "optax.cosine_onecycle_schedule(20, lr)"),
    ),
    row(
        "Schedules in sequence",
        "sequential join joinschedules",
        purenets=Cell(
            "schedules.join",
            "purenets.schedules.join([purenets.schedules.constant(lr), "
            "purenets.schedules.cosine(lr, 5)], [3])",
        ),
        torch=named("lr_scheduler.SequentialLR"),
        optax=Cell(
            "join_schedules",
            "optax.join_schedules([optax.constant_schedule(lr), "
            "optax.cosine_decay_schedule(lr, 5)], [3])",
        ),
    ),
    row(
        "Warm-up before any schedule",
        "warmup warmupcosinedecay",
        purenets=Cell(
            "schedules.warmup", "purenets.schedules.warmup(purenets.schedules.cosine(lr, 5), 3)"
        ),
        torch=named("lr_scheduler.SequentialLR"),
        optax=Cell(
            "warmup_cosine_decay_schedule", "optax.warmup_cosine_decay_schedule(0.0, lr, 3, 8)", ""
        ),
    ),
    row(
        "Given values",
        "piecewise(constant)?",
        purenets=Cell("schedules.piecewise", "purenets.schedules.piecewise([3], [lr, 0.1])"),
        optax=Cell(
            "piecewise_constant_schedule", "optax.piecewise_constant_schedule(lr, {3: 0.5})"
        ),
    ),
    row(
        "Any function of the count",
        "lambda",
        purenets=Cell("Schedule", "lambda count: lr * 0.9**count"),
        torch=named("lr_scheduler.LambdaLR"),
        optax=Cell("Schedule", "lambda count: lr * 0.9**count"),
        torchopt=Cell("typing.Schedule", "lambda count: lr * 0.9**count"),
    ),
    row(
        "Rate of weight averaging",
        "swalr",
        purenets=Cell("schedules.swa", "purenets.schedules.swa(lr, 3, lr / 2)"),
        torch=named("swa_utils.SWALR"),
    ),
]
OPTIMIZERS_TEXT = """\
Names, defaults and numbers match torch.optim where it has the optimizer, and the authors' code
otherwise. Ours run on NumPy arrays and torch tensors, eagerly, under `jit` and `scan`, and as an
ensemble, and all of these end at the same params (`tests/test_optimizers_on_every_path.py`).
Checked under vmap: two updates, each member with its own params and learning rate ("vmap of
params": all members with one rate). torch.optim changes params in place, so there is nothing to
map."""
AROUND_AN_OPTIMIZER_TEXT = """\
Functions that wrap an optimizer or are part of its chain."""
SCHEDULES_TEXT = """\
Schedules are functions of the number of updates; in torch they are objects. Checked under vmap:
values at 8 counts, for three rates."""
SECTIONS = [
    Section(
        "Optimizers",
        OPTIMIZERS_TEXT,
        ALL,
        OPTIMIZERS,
    ),
    Section("Around an optimizer", AROUND_AN_OPTIMIZER_TEXT, ALL, WRAPPERS),
    Section(
        "Schedules",
        SCHEDULES_TEXT,
        ALL,
        SCHEDULES,
    ),
]
