"""Deliberate mistakes, each with the fast tests that have to fail on it.

`tests/mutants/run.py` makes one at a time in a copy of this tree. A text of the source stands for a
place in it, and has to be found there exactly once; `test_mutations.py` sees to that, so that the
list keeps pace with the code.
"""

from typing import NamedTuple


class Mutation(NamedTuple):
    """A mistake.

    Args:
        name: what is wrong.
        file: where, from the root of the repository.
        old: the text there, found exactly once.
        new: what stands there instead.
        tests: what pytest runs, with spaces between.
        reason: why no test need fail, of a mistake that is allowed to survive.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str
    reason: str = ""


CANARIES, RECIPES = "tests/scripts/test_canaries.py", "tests/scripts/test_recipes.py"
USERS = "tests/torch_nets/test_users_inputs.py"
TIMING, RESULTS = "tests/test_timing.py", "tests/test_results.py"
PUBLISHED, COMBINATORS = "tests/core/test_optim_published.py", "tests/core/test_combinators.py"
TORCH_TWINS = "tests/core/test_optim.py::test_200_steps_equal_torch_optim"
TRAIN, DATA, IMAGES = (f"tests/core/test_{name}.py" for name in ("train", "data", "images"))
METRICS, RANDOM = "tests/core/test_metrics.py", "tests/core/test_random.py"
BY_HAND = "tests/numpy_nets/test_modules.py"
IMAGES_BY_HAND = "tests/numpy_nets/test_image_modules.py"
LAYERS, AUGMENT = "tests/torch_nets/test_layers.py", "tests/torch_nets/test_augment.py"
PER_EXAMPLE = "tests/torch_nets/test_per_example.py"

EXPERIMENTS = [
    Mutation(
        "normalization by all training images, those for validation included",
        "torch_nets/images.py",
        "channel_mean_std(parts[0][0])",
        "channel_mean_std(x)",
        f"{CANARIES}::test_validation_images_change_nothing_but_the_validation",
    ),
    Mutation(
        "normalization by the test images",
        "torch_nets/images.py",
        "channel_mean_std(parts[0][0])",
        "channel_mean_std(parts[2][0])",
        f"{CANARIES}::test_test_images_change_nothing_but_the_test",
    ),
    Mutation(
        "validation images are trained on too",
        "torch_nets/images.py",
        "        (train_rows, _), (valid_rows, _) = data",
        "        train_rows = rows\n        _, (valid_rows, _) = data",
        f"{CANARIES}::test_validation_images_change_nothing_but_the_validation",
    ),
    Mutation(
        "whitening filters from test images",
        "scripts/cifar10_cnn.py",
        "    x = task.train[0]\n",
        "    x = task.test[0]\n",
        f"{CANARIES}::test_test_images_change_nothing_but_the_test",
    ),
    Mutation(
        "whitening filters from fewer images",
        "scripts/cifar10_cnn.py",
        "x[:5000]",
        "x[:500]",
        f"{RECIPES}::test_filters_whiten_the_training_images_of_the_table",
    ),
    Mutation(
        "another decay in the recipe",
        "scripts/cifar10_cnn.py",
        "decay: float = option(2e-6,",
        "decay: float = option(2e-5,",
        f"{RECIPES}::test_defaults_are_those_of_the_table",
    ),
    Mutation(
        "the decay is not divided by the rate",
        "scripts/shared/filters.py",
        "weight_decay=decay / rate",
        "weight_decay=decay",
        f"{RECIPES}::test_momentum_decay_and_rates_of_the_fast_cnn_are_those_of_the_table",
    ),
    Mutation(
        "another momentum of the last layer and the biases",
        "scripts/shared/filters.py",
        "momentum=0.85",
        "momentum=0.9",
        f"{RECIPES}::test_momentum_decay_and_rates_of_the_fast_cnn_are_those_of_the_table",
    ),
    Mutation(
        "another momentum of the filters",
        "scripts/cifar10_cnn.py",
        "momentum: float = option(0.6,",
        "momentum: float = option(0.9,",
        f"{RECIPES}::test_defaults_are_those_of_the_table",
    ),
    Mutation(
        "more iterations of Newton-Schulz in the recipe",
        "scripts/shared/filters.py",
        "ns_steps=3",
        "ns_steps=5",
        f"{RECIPES}::test_filters_of_the_fast_cnn_follow_muon_as_in_the_table",
    ),
    Mutation(
        "another length of a preset",
        "scripts/cifar10_cnn.py",
        'preset("94", **SMALL_FIRST, epochs=8.0',
        'preset("94", **SMALL_FIRST, epochs=9.0',
        f"{RECIPES}::test_presets_are_those_of_the_table",
    ),
    Mutation(
        "another weight decay of the net without convolutions",
        "scripts/cifar10_mlp.py",
        '    "weight_decay": 0.05,\n    "crop": 4,',
        '    "weight_decay": 0.005,\n    "crop": 4,',
        f"{RECIPES}::test_presets_are_those_of_the_table",
    ),
    Mutation(
        "biases decay",
        "scripts/shared/training.py",
        '"decayed" if leaf.ndim > 1 else "kept"',
        '"decayed" if leaf.ndim > 0 else "kept"',
        f"{RECIPES}::test_only_matrices_and_filters_decay",
    ),
    Mutation(
        "without a weight decay the optimizer's own default decays",
        "scripts/shared/training.py",
        "make(lr=rate, weight_decay=0) if decays else make(lr=rate)",
        "make(lr=rate)",
        f"{RECIPES}::test_without_weight_decay_nothing_decays",
    ),
    Mutation(
        "the option for cutout is ignored",
        "scripts/shared/training.py",
        "    if config.cutout:",
        "    if False:",
        f"{RECIPES}::test_no_option_of_a_recipe_is_ignored",
    ),
    Mutation(
        "the loss is smoothed by half of what is asked for",
        "scripts/shared/training.py",
        "label_smoothed(config.label_smoothing)",
        "label_smoothed(config.label_smoothing / 2)",
        f"{RECIPES}::test_the_loss_is_smoothed_by_as_much_as_the_option_says",
    ),
    Mutation(
        "the test is of the raw params where their mean is kept",
        "scripts/shared/training.py",
        "        state = training.averaged(state)\n",
        "",
        f"{RECIPES}::test_no_option_of_a_recipe_is_ignored",
    ),
    Mutation(
        "the validation is of the raw params where their mean is kept",
        "scripts/shared/training.py",
        "evaluate(metrics, averaged(state), task.valid",
        "evaluate(metrics, state, task.valid",
        f"{CANARIES}::test_the_validation_is_of_the_params_that_are_tested",
    ),
    Mutation(
        "holes are black, not of the mean color",
        "scripts/shared/training.py",
        "        grad = augment.augmented(grad, augment.cutout(config.cutout))\n",
        "        grad = augment.with_input_transform(grad, task.normalize)\n"
        "        return augment.augmented(grad, augment.cutout(config.cutout))\n",
        f"{RECIPES}::test_holes_are_of_the_mean_color",
    ),
    Mutation(
        "test images are tested in training mode",
        "scripts/shared/images.py",
        "model.apply(params, buffers, part)[0] for part in parts",
        "model.apply(params, buffers, part, train=True)[0] for part in parts",
        f"{CANARIES}::test_the_test_is_of_the_test_images",
    ),
    Mutation(
        "the networks that are compared begin with params of their own",
        "scripts/compare_mlps.py",
        "pytorch_train_mlp.train(torch_case, params)",
        "pytorch_train_mlp.train(torch_case)",
        "tests/scripts/test_compare_mlps.py",
    ),
    Mutation(
        "the comparison ignores how many epochs are asked for",
        "scripts/compare_mlps.py",
        'names = ("dnn_hidden_units", "learning_rate", "max_steps", "eval_freq", "dtype")',
        'names = ("dnn_hidden_units", "learning_rate", "eval_freq", "dtype")',
        "tests/scripts/test_compare_mlps.py",
    ),
    Mutation(
        "test accuracy of the validation images",
        "scripts/shared/images.py",
        "    x, y = task.test\n",
        "    x, y = task.valid\n",
        f"{CANARIES}::test_the_test_is_of_the_test_images",
    ),
    Mutation(
        "validation accuracy of the test images",
        "scripts/shared/training.py",
        "task.valid, batch_size=500",
        "task.test, batch_size=500",
        f"{CANARIES}::test_test_images_change_nothing_but_the_test",
    ),
    Mutation(
        "the test leaves out what does not fill a part",
        "scripts/shared/images.py",
        "x.split(500)\n    with",
        "x[: len(x) // 500 * 500].split(500)\n    with",
        f"{CANARIES}::test_all_of_the_test_images_are_tested",
    ),
    Mutation(
        "a confusion matrix on its side",
        "scripts/shared/images.py",
        "confusion(classes, y.cpu().numpy(), len(task.classes))",
        "confusion(y.cpu().numpy(), classes, len(task.classes))",
        f"{CANARIES}::test_the_test_is_of_the_test_images",
    ),
    Mutation(
        "settings are chosen with a look at the test images",
        "scripts/cifar10_sweep.py",
        '{"valid_fraction": 0.1, "test": False}',
        '{"valid_fraction": 0.1, "test": True}',
        "tests/scripts/test_sweeps.py::"
        "test_settings_are_chosen_on_5000_images_and_the_test_is_not_looked_at",
    ),
    Mutation(
        "averaged params are evaluated with the statistics of the raw ones",
        "scripts/shared/training.py",
        "return found._replace(buffers=buffers)",
        "return found",
        "tests/scripts/test_training.py::"
        "test_averaged_params_are_evaluated_with_statistics_of_their_own",
    ),
    Mutation(
        "a preset asks the clock which precision to take",
        "scripts/shared/images.py",
        '    "precision": "bfloat16",\n}',
        '    "precision": "auto",\n}',
        "tests/scripts/test_training.py::test_no_preset_asks_the_clock",
    ),
    Mutation(
        "components of the pixels by the test images",
        "scripts/cifar10_mlp.py",
        "for part in task.train[0].split(1000)",
        "for part in task.test[0].split(1000)",
        f"{CANARIES}::test_test_images_change_nothing_but_the_test",
    ),
    Mutation(
        "the easiest images are trained on",
        "torch_nets/selection.py",
        ".topk(keep).indices",
        ".topk(keep, largest=False).indices",
        "tests/torch_nets/test_selection.py::test_the_rows_are_those_of_the_largest_losses",
    ),
    Mutation(
        "the views of sure images are taken",
        "torch_nets/tta.py",
        ".amax(dim=1) < below",
        ".amax(dim=1) > below",
        "tests/torch_nets/test_wrappers.py::test_only_unsure_images_are_seen_in_several_views",
    ),
    Mutation(
        "the factors of the Gram order in one step too few",
        "core/optim/methods/newton_schulz.py",
        "    for _ in range(steps - 1):",
        "    for _ in range(steps - 2):",
        "tests/core/test_newton_schulz.py::"
        "test_both_orders_equal_the_polynomial_of_the_singular_values",
    ),
    Mutation(
        "the standard error of an ingredient is not divided by the root of the seeds",
        "scripts/cifar10_sweep.py",
        "np.std(values, ddof=1) / len(values) ** 0.5",
        "np.std(values, ddof=1)",
        "tests/scripts/test_sweeps.py::"
        "test_an_ingredient_counts_by_the_difference_of_the_same_seeds",
    ),
    Mutation(
        "validation accuracies in the column of the test",
        "scripts/cnn_sweep.py",
        'spread([row["test"]["accuracy"] for row in rows])',
        'spread([row["valid_accuracy"] for row in last])',
        f"{CANARIES}::test_each_column_of_a_sweep_is_that_of_its_images",
    ),
    Mutation(
        "the test accuracy of an MLP on its training set",
        "scripts/shared/mlp.py",
        '{"train": train_set, "test": test_set}',
        '{"train": train_set, "test": train_set}',
        f"{CANARIES}::test_the_accuracies_of_an_mlp_are_those_of_their_parts",
    ),
    Mutation(
        "the sweep of rates chooses by test points",
        "scripts/mlp_sweep.py",
        "(x[:held_out], y[:held_out])",
        "tuple(map(torch.as_tensor, task.test))",
        f"{CANARIES}::test_the_sweep_of_rates_sees_no_test_point_and_learns_no_validation_point",
    ),
    Mutation(
        "evaluation palindromes by the key of the training stream",
        "scripts/train.py",
        "own.evaluation, T, size",
        "own.training, T, size",
        f"{CANARIES}::test_training_cannot_reach_a_key_of_the_evaluation",
    ),
    Mutation(
        "both streams of palindromes have one key",
        "core/data/palindromes.py",
        "    return train_key, evaluation_key\n",
        "    return train_key, train_key\n",
        f"{CANARIES}::test_training_cannot_reach_a_key_of_the_evaluation",
    ),
    Mutation(
        "the members of a sweep are evaluated by a key that one of them trains with",
        "scripts/palindrome_sweep.py",
        "evaluation_keys[0], T",
        "train_keys[0], T",
        f"{CANARIES}::test_members_of_a_sweep_are_evaluated_by_a_key_that_none_of_them_trains_with",
    ),
    Mutation(
        "the deviation over n",
        "scripts/shared/sweeps.py",
        "ddof=1",
        "ddof=0",
        f"{RESULTS}::test_the_deviation_is_that_of_a_sample",
    ),
    Mutation(
        "one seed has a deviation of 0",
        "scripts/shared/sweeps.py",
        "if len(values) > 1 else None",
        "if len(values) > 1 else 0.0",
        f"{RESULTS}::test_one_seed_has_no_deviation",
    ),
    Mutation(
        "results of changed files are no draft",
        "scripts/shared/result_files.py",
        "    if is_draft(found):\n",
        "    if False:\n",
        f"{RESULTS}::test_what_changed_files_give_is_a_draft_that_nothing_reads",
    ),
    Mutation(
        "a draft is read",
        "scripts/shared/result_files.py",
        'if "draft" in found and not drafts:',
        "if False:",
        f"{RESULTS}::test_what_changed_files_give_is_a_draft_that_nothing_reads",
    ),
    Mutation(
        "new files do not make a tree dirty",
        "core/runs/provenance.py",
        '"--no-renames", "-z")',
        '"--no-renames", "-z", "-uno")',
        "tests/core/test_provenance.py::test_a_changed_or_new_file_makes_it_dirty",
    ),
    Mutation(
        "the first images of a folder, all of one class",
        "torch_nets/images.py",
        "random.permutation(key, len(y)) if is_sorted else rows",
        "rows",
        "tests/core/test_images.py::"
        "test_images_that_are_sorted_by_class_are_shuffled_where_none_are_held_out",
    ),
    Mutation(
        "a finished run of another length is that of a sweep",
        "scripts/shared/sweeps.py",
        "    if not config.epochs and taken != config.max_steps:",
        "    if False:",
        "tests/scripts/test_sweeps.py::"
        "test_a_finished_run_of_another_length_is_not_that_of_a_sweep",
    ),
]

BENCHMARKS = [
    Mutation(
        "a ratio upside down",
        "benchmarks/timing.py",
        "np.quantile(a / b,",
        "np.quantile(b / a,",
        f"{TIMING}::test_a_ratio_is_the_median_of_the_rounds_and_below_1_where_the_first_is_faster",
    ),
    Mutation(
        "a ratio of the toolbox upside down",
        "benchmarks/toolbox.py",
        'ratio(times["ours"], times[peer])',
        'ratio(times[peer], times["ours"])',
        f"{TIMING}::test_ratios_of_the_toolbox_are_ours_to_the_peer",
    ),
    Mutation(
        "the summary takes the slowest peer",
        "benchmarks/summary.py",
        "peer = min(peers",
        "peer = max(peers",
        f"{TIMING}::test_a_bar_is_of_ours_to_the_fastest_peer",
    ),
    Mutation(
        "means instead of medians",
        "benchmarks/timing.py",
        "float(np.median(values))",
        "float(np.mean(values))",
        f"{TIMING}::test_a_time_is_the_median_of_the_rounds",
    ),
    Mutation(
        "contestants in one order in every round",
        "benchmarks/timing.py",
        "random.permutation(random.fold_in(key, i), len(names))",
        "range(len(names))",
        f"{TIMING}::test_contestants_are_interleaved_in_the_order_of_a_drawn_key",
    ),
    Mutation(
        "a contestant may leave other threads to the next one",
        "benchmarks/timing.py",
        "if torch_threads() != threads:",
        "if False:",
        f"{TIMING}::test_who_changes_the_threads_of_others_is_named",
    ),
    Mutation(
        "a contestant in a process of its own has the malloc of the one that measures",
        "benchmarks/timing.py",
        "    if memory_reused:\n",
        "    if True:\n",
        f"{TIMING}::"
        "test_contestants_in_processes_have_equal_threads_and_the_malloc_that_is_asked_for",
    ),
    Mutation(
        "a missed bar counts as met",
        "benchmarks/summary.py",
        'met = "" if row["median"] <= row["at_most"] else',
        'met = "" if row["median"] >= row["at_most"] else',
        f"{TIMING}::test_a_bar_is_missed_above_it_and_met_below",
    ),
]

OPTIMIZERS = [
    Mutation(
        "Adam without the correction of its second moment",
        "core/optim/transforms.py",
        "factor, e = c1 / c2**0.5, c1 * e",
        "factor, e = c1, c1 * e",
        f"{TORCH_TWINS} -k adam",
    ),
    Mutation(
        "the running mean weighs the new value by beta",
        "core/optim/internals/arithmetic.py",
        '    """Return beta * mean + (1 - beta) * new."""\n    weight = 1 - beta\n',
        '    """Return beta * mean + (1 - beta) * new."""\n    weight = beta\n',
        f"{TORCH_TWINS} -k adamax",
    ),
    Mutation(
        "Nesterov's momentum looks ahead without the decay",
        "core/optim/transforms.py",
        "tree.map(lambda g, buf: g + decay * buf, grads, buffer) if nesterov",
        "tree.map(lambda g, buf: g + buf, grads, buffer) if nesterov",
        f"{TORCH_TWINS} -k nesterov",
    ),
    Mutation(
        "AMSGrad forgets the largest second moment",
        "core/optim/transforms.py",
        "            largest = maximum(largest, v)\n",
        "            largest = v\n",
        f"{TORCH_TWINS} -k amsgrad",
    ),
    Mutation(
        "AdamW's decay is added to the gradient",
        "core/optim/optimizers.py",
        "parts = (transform, *decay) if decoupled else (*decay, transform)",
        "parts = (*decay, transform)",
        f"{TORCH_TWINS} -k adamw",
    ),
    Mutation(
        "clipping by the norm clips nothing",
        "core/optim/transforms.py",
        "factor = xp.where(over, max_norm / xp.where(over, norm, 1.0), 1.0)",
        "factor = xp.where(over, xp.ones_like(norm), 1.0)",
        "tests/core/test_optim.py::test_clipping_by_global_norm_is_exact_and_close_to_torchs",
    ),
    Mutation(
        "Lion's direction by the second beta",
        "core/optim/transforms.py",
        'ahead = running_mean(b1, state["exp_avg"], grads)',
        'ahead = running_mean(b2, state["exp_avg"], grads)',
        f"{PUBLISHED}::test_lion_by_hand",
    ),
    Mutation(
        "Muon's matrices are orthogonalized by another polynomial",
        "core/optim/methods/newton_schulz.py",
        "x = a * x + (b * gram + c * (gram @ gram)) @ x",
        "x = a * x + (b * gram - c * (gram @ gram)) @ x",
        f"{PUBLISHED}::test_muon_makes_singular_values_about_one",
    ),
    Mutation(
        "the sum of accumulated gradients instead of their mean",
        "core/optim/wrappers.py",
        "lambda t: t * (1 / k) * as_array(",
        "lambda t: t * as_array(",
        f"{COMBINATORS}::test_accumulated_gradients_equal_their_mean",
    ),
    Mutation(
        "the average lags one update behind",
        "core/optim/wrappers.py",
        "        moved = tree.map(lambda p, u: p + u, params, updates)\n        mean",
        "        moved = params\n        mean",
        f"{COMBINATORS}::test_ema_is_the_running_mean_of_the_params",
    ),
    Mutation(
        "lookahead goes all the way",
        "core/optim/wrappers.py",
        "lambda s, f: s + a * (f - s)",
        "lambda s, f: f",
        f"{COMBINATORS}::test_lookahead_goes_back_half_way",
    ),
    Mutation(
        "one_cycle starts at its peak",
        "core/optim/schedules.py",
        "parts, ends = [line(low, top, peak)], [top]",
        "parts, ends = [line(peak, top, peak)], [top]",
        "tests/core/test_schedule.py::test_equals_its_twin_in_torch",
    ),
    Mutation(
        "schedule-free gradients at the average",
        "core/optim/methods/schedule_free.py",
        "b * x + (1 - b) * z - y",
        "x - y",
        f"{PUBLISHED}::test_schedule_free_by_hand",
    ),
    Mutation(
        "SAM climbs down",
        "core/sam.py",
        "rho / length",
        "-rho / length",
        f"{PUBLISHED}::test_sam_by_hand",
    ),
    Mutation(
        "beta-lasso keeps small weights",
        "core/optim/methods/beta_lasso.py",
        "abs(p + u) < beta * lam, -p, u",
        "abs(p + u) < lam, -p, u",
        "tests/core/test_sparse.py::test_beta_lasso_is_the_algorithm_of_the_paper",
    ),
    Mutation(
        "the trial of elementwise has positive gradients only",
        "core/optim/internals/declared.py",
        "namespace(p).where((g + t) % (2 + i) == 0, -g, g)",
        "g",
        "tests/core/test_declared.py::test_a_mask_by_the_signs_of_another_update_is_refused",
    ),
]

BACKPROP = [
    Mutation(
        "ReLU's gradient where its output is 0",
        "numpy_nets/modules.py",
        "return dout * np.sign(cache)",
        "return dout * (cache >= 0)",
        f"{BY_HAND}::test_equals_autograd {BY_HAND}::test_backward_equals_central_differences",
    ),
    Mutation(
        "tanh's gradient without the square",
        "numpy_nets/modules.py",
        "return dout * (1 - cache * cache)",
        "return dout * (1 - cache)",
        f"{BY_HAND}::test_equals_autograd",
    ),
    Mutation(
        "the gradient of the loss is a sum over the batch",
        "numpy_nets/modules.py",
        "    dx *= dout / len(targets)\n",
        "    dx *= dout\n",
        f"{BY_HAND}::test_the_fused_gradient_is_the_chain_of_both",
    ),
    Mutation(
        "softmax's gradient without its second term",
        "numpy_nets/modules.py",
        "return p * (dout - (dout * p).sum(axis=-1, keepdims=True))",
        "return p * dout",
        f"{BY_HAND}::test_backward_equals_central_differences",
    ),
    Mutation(
        "the gradient of the bias is a mean",
        "numpy_nets/modules.py",
        "return dout.T.dot(x), sum_of_rows(dout)",
        "return dout.T.dot(x), dout.mean(axis=0)",
        f"{BY_HAND}::test_equals_autograd",
    ),
    Mutation(
        "dropout without its factor",
        "numpy_nets/modules.py",
        "random.bernoulli(key, 1 - rate, x.shape) / x.dtype.type(1 - rate)",
        "random.bernoulli(key, 1 - rate, x.shape) / x.dtype.type(1)",
        f"{BY_HAND}::test_dropout_keeps_the_expectation_and_drops_the_rate",
    ),
    Mutation(
        "BatchNorm's gradient without the variance's part",
        "numpy_nets/image_modules.py",
        "(over_pixels(dbias) + n * over_pixels(dweight)) / count",
        "over_pixels(dbias) / count",
        f"{IMAGES_BY_HAND}::test_batch_norm_equals_torchs",
    ),
    Mutation(
        "running variance without Bessel's correction",
        "numpy_nets/image_modules.py",
        "var * (count / (count - 1))",
        "var",
        f"{IMAGES_BY_HAND}::test_running_statistics_equal_torchs",
    ),
    Mutation(
        "the gradient of max pooling goes to every equal pixel",
        "numpy_nets/image_modules.py",
        "place = flat.argmax(axis=-1)",
        "place = flat.shape[-1] - 1 - flat[..., ::-1].argmax(axis=-1)",
        f"{IMAGES_BY_HAND}::test_max_pooling_equals_torchs_also_where_values_are_equal",
    ),
    Mutation(
        "backpropagation through time stops after one step",
        "numpy_nets/rnn_numpy.py",
        "        dh = da @ W_hh\n",
        "        dh = 0 * da @ W_hh\n",
        "tests/numpy_nets/test_rnn_numpy.py::test_gradients_equal_torch_func",
    ),
]

LAYERS_AND_LOSSES = [
    Mutation(
        "dropout drops with the probability to keep",
        "torch_nets/layers/basic.py",
        "kept = random.bernoulli(key_like(key, x), 1 - rate, x.shape)",
        "kept = random.bernoulli(key_like(key, x), rate, x.shape)",
        f"{LAYERS}::test_dropout_is_a_function_of_its_key",
    ),
    Mutation(
        "running statistics move by one minus the momentum",
        "torch_nets/layers/norms.py",
        "value.to(wide.dtype), momentum)",
        "value.to(wide.dtype), 1 - momentum)",
        f"{LAYERS}::test_batch_norm_of_features_and_of_images_is_torchs",
    ),
    Mutation(
        "a residual layer without its input",
        "torch_nets/layers/basic.py",
        "return x + y, buffers",
        "return y, buffers",
        f"{LAYERS}::test_layer_norm_gelu_scale_and_residual",
    ),
    Mutation(
        "weights within 1 / n instead of 1 / sqrt(n)",
        "torch_nets/layers/basic.py",
        "bound = 1 / math.sqrt(n_in) if bound is None else bound",
        "bound = 1 / n_in if bound is None else bound",
        f"{LAYERS}::test_linear_draws_as_nn_linear_does",
    ),
    Mutation(
        "targets of -100 drop out of the loss",
        "torch_nets/losses.py",
        "NOTHING_IGNORED = torch.iinfo(torch.int64).min + 12345",
        "NOTHING_IGNORED = -100",
        "tests/test_labels.py::test_what_is_no_label_is_refused",
    ),
    Mutation(
        "whitening without the other signs",
        "torch_nets/fast_cnn.py",
        "torch.cat([filters, -filters])",
        "torch.cat([filters, filters])",
        "tests/torch_nets/test_fast_cnn.py",
    ),
    Mutation(
        "whitening by variances instead of deviations",
        "torch_nets/fast_cnn.py",
        "columns = directions / torch.sqrt(variances + eps)",
        "columns = directions / (variances + eps)",
        "tests/torch_nets/test_fast_cnn.py::"
        "test_whitened_patches_are_uncorrelated_with_variance_one",
    ),
    Mutation(
        "the RNN reads one digit less",
        "torch_nets/vanilla_rnn.py",
        "for a in from_inputs[1:]:",
        "for a in from_inputs[1:-1]:",
        "tests/torch_nets/test_vanilla_rnn.py::test_logits_equal_those_of_the_twin",
    ),
    Mutation(
        "training in evaluation mode",
        "torch_nets/grad.py",
        "model.apply(params, buffers, x, train=True, key=key)",
        "model.apply(params, buffers, x, key=key)",
        "tests/torch_nets/test_grad.py::test_training_and_evaluation_are_modes_of_their_own",
    ),
    Mutation(
        "evaluation in training mode",
        "torch_nets/grad.py",
        "        logits, _ = expect_output(model.apply(params, buffers, x))\n",
        "        logits, _ = expect_output(model.apply(params, buffers, x, train=True))\n",
        "tests/torch_nets/test_grad.py::test_training_and_evaluation_are_modes_of_their_own",
    ),
    Mutation(
        "training by hand in evaluation mode",
        "numpy_nets/grad.py",
        "buffers, x, train=True, key=key)",
        "buffers, x, key=key)",
        "tests/torch_nets/test_grad.py::test_training_and_evaluation_are_modes_of_their_own",
    ),
    Mutation(
        "the mean of members is their sum",
        "torch_nets/ensemble.py",
        "widened(logits[0])) / k",
        "widened(logits[0]))",
        "tests/torch_nets/test_ensemble.py::"
        "test_the_logits_of_both_are_the_mean_of_theirs_and_buffers_are_kept_apart",
    ),
    Mutation(
        "fresh statistics are those of the last batch",
        "torch_nets/batchnorm.py",
        "mean + (value - mean) * (more / max(calls[name], 1))",
        "value",
        "tests/torch_nets/test_batchnorm.py::test_fresh_statistics_are_those_of_torch",
    ),
    Mutation(
        "mean over views without the mirror image",
        "torch_nets/tta.py",
        "model.apply(params, buffers, x.flip(3))[0]) / 2",
        "model.apply(params, buffers, x)[0]) / 2",
        "tests/torch_nets/test_wrappers.py::"
        "test_mirror_averaging_is_blind_to_mirrors_in_evaluation_only",
    ),
    Mutation(
        "a token of an ensemble is a row of the next member",
        "torch_nets/layers/basic.py",
        "            if is_transformed():  #",
        "            if False:  #",
        f"{USERS}::test_a_token_of_an_ensemble_is_no_row_of_another_member",
    ),
    Mutation(
        "variances of a batch in half precision before they are averaged",
        "torch_nets/layers/norms.py",
        "torch.lerp(wide, value.to(wide.dtype), momentum)",
        "torch.lerp(wide, value.to(old.dtype).to(wide.dtype), momentum)",
        f"{USERS}::test_statistics_beyond_half_precision_are_averaged_first",
    ),
]

LOOP = [
    Mutation(
        "every step draws by one key",
        "core/train.py",
        "random.fold_in(state.key, state.step) if uses_key",
        "state.key if uses_key",
        f"{TRAIN}::test_every_step_is_counted_and_draws_by_its_own_key",
    ),
    Mutation(
        "the step is not counted",
        "core/train.py",
        "opt_state, state.key, state.step + 1), metrics",
        "opt_state, state.key, state.step), metrics",
        f"{TRAIN}::test_every_step_is_counted_and_draws_by_its_own_key",
    ),
    Mutation(
        "a row is divided by all steps",
        "core/running_sums.py",
        "count = step - int(sums[STEP])",
        "count = step",
        f"{TRAIN}::test_second_fit_counts_its_own_steps",
    ),
    Mutation(
        "batches are counted from 1",
        "core/train.py",
        "            state, metrics = step(state, batches(i))\n            except",
        "            state, metrics = step(state, batches(i + 1))\n            except",
        f"{TRAIN}::test_fit_is_the_loop_written_out",
    ),
    Mutation(
        "parts of an evaluation are averaged as if they were equally large",
        "core/train.py",
        "_number(name, value) * min(size, n - begin)",
        "_number(name, value) * size",
        f"{TRAIN}::test_evaluate_in_parts_equals_evaluate_at_once",
    ),
    Mutation(
        "a loss that is not finite is a row",
        "core/train.py",
        "if not all(map(math.isfinite, row.values())):",
        "if False:",
        f"{TRAIN}::test_divergence_names_its_step",
    ),
    Mutation(
        "the compensation of a sum is lost",
        "core/running_sums.py",
        "    return rounded, lost - (rounded - new)\n",
        "    return rounded, 0 * lost\n",
        "tests/core/test_running_sums.py::test_compensated_sum_is_that_of_float64",
    ),
]

METRICS_ = [
    Mutation(
        "accuracy by the smallest score",
        "core/metrics.py",
        "hits = predictions.argmax(1) == classes",
        "hits = predictions.argmin(1) == classes",
        f"{METRICS}::test_accuracy_and_top_k_accuracy_equal_sklearns",
    ),
    Mutation(
        "rows of a confusion matrix are predictions",
        "core/metrics.py",
        "targets * n_classes + predicted",
        "predicted * n_classes + targets",
        f"{METRICS}::test_confusion_equals_sklearns",
    ),
    Mutation(
        "one of the k largest scores too many",
        "core/metrics.py",
        "(ahead < k)",
        "(ahead <= k)",
        f"{METRICS}::test_accuracy_and_top_k_accuracy_equal_sklearns",
    ),
    Mutation(
        "calibration by signed gaps",
        "core/metrics.py",
        "xp.sum(xp.abs(by_bin))",
        "xp.abs(xp.sum(by_bin))",
        f"{METRICS}::test_calibration_error_is_that_of_the_paper",
    ),
    Mutation(
        "ignored targets count",
        "core/metrics.py",
        "n = np.count_nonzero(classes >= 0)",
        "n = classes.size",
        f"{METRICS}::test_ignored_targets_do_not_count",
    ),
    Mutation(
        "targets that the loss ignores are counted",
        "torch_nets/default_metrics.py",
        "torch.where(targets == index, IGNORED, int64(targets))",
        "int64(targets)",
        f"{USERS}::test_targets_that_the_loss_ignores_are_not_counted",
    ),
]

DATA_ = [
    Mutation(
        "standardization by training and test rows",
        "core/data/tasks.py",
        "scaling_of(train[0])",
        "scaling_of(np.concatenate([train[0], test[0]]))",
        f"{CANARIES}::test_test_rows_of_a_table_change_nothing_but_the_test",
    ),
    Mutation(
        "both parts of a split overlap",
        "core/data/tasks.py",
        "for rows in (order[second:], order[:second]))",
        "for rows in (order[second - 1 :], order[:second]))",
        f"{DATA}::test_split_is_a_partition",
    ),
    Mutation(
        "one order for all epochs",
        "core/data/sampling.py",
        "random.permutation(random.fold_in(host_key, epoch), n)",
        "random.permutation(host_key, n)",
        f"{DATA}::test_every_epoch_has_an_order_of_its_own",
    ),
    Mutation(
        "inputs and targets in different orders",
        "core/data/sampling.py",
        "return _rows_of(x, rows), y[rows]",
        "return _rows_of(x, rows), y[namespace(rows).flip(rows)]",
        f"{DATA}::test_every_input_keeps_its_target",
    ),
    Mutation(
        "the first examples of an epoch are left out",
        "core/data/sampling.py",
        "epoch, offset = divmod(operator.index(step) * batch_size, n)",
        "epoch, offset = divmod((step + 1) * batch_size, n)",
        f"{DATA}::test_batches_are_full_and_hold_each_example_once_a_pass",
    ),
    Mutation(
        "the deviation of a channel is its variance",
        "core/data/images.py",
        "np.sqrt(np.where(constant, 1.0, variance))",
        "np.where(constant, 1.0, variance)",
        f"{IMAGES}::test_mean_and_deviation_are_exact",
    ),
    Mutation(
        "test images of the digits are trained on",
        "core/data/images.py",
        "for rows in (~held_out, held_out))",
        "for rows in (held_out | True, held_out))",
        f"{IMAGES}::test_no_digit_is_trained_on_and_tested",
    ),
    Mutation(
        "palindromes of odd length read otherwise backwards",
        "core/data/palindromes.py",
        "xp.flip(half[:, : T // 2], axis=1)",
        "half[:, : T // 2]",
        "tests/torch_nets/test_dataset.py::test_they_read_the_same_backwards",
    ),
    Mutation(
        "the last digit is read",
        "core/data/palindromes.py",
        "x, y = digits[:, :-1, None], digits[:, -1]",
        "x, y = digits[:, 1:, None], digits[:, -1]",
        "tests/torch_nets/test_dataset.py",
    ),
    Mutation(
        "palindromes without the digit 9",
        "core/data/palindromes.py",
        "random.randint(key, (batch, free_digits(T)), 0, DIGITS)",
        "random.randint(key, (batch, free_digits(T)), 0, DIGITS - 1)",
        "tests/torch_nets/test_dataset.py::test_all_are_equally_likely",
    ),
    Mutation(
        "fresh palindromes are the same in every part of an evaluation",
        "core/data/palindromes.py",
        "random.fold_in(np.asarray(key), i), min(chunk",
        "np.asarray(key), min(chunk",
        "tests/torch_nets/test_dataset.py",
    ),
]

KEYS_AND_RUNS = [
    Mutation(
        "keys and draws share a counter",
        "core/random.py",
        "DRAW, SPLIT, FOLD = 0, 1, 2",
        "DRAW, SPLIT, FOLD = 0, 0, 2",
        f"{RANDOM}::test_a_new_key_is_nothing_that_its_key_draws",
    ),
    Mutation(
        "nine rounds of Philox",
        "core/random.py",
        "for _ in range(10):",
        "for _ in range(9):",
        f"{RANDOM}::test_philox_gives_the_published_vectors",
    ),
    Mutation(
        "uniform numbers of fewer bits",
        "core/random.py",
        "bits(key, n) >> 8, xp.float32) * 2.0**-24",
        "bits(key, n) >> 28, xp.float32) * 2.0**-4",
        f"{RANDOM}::test_draws_follow_their_distribution",
    ),
    Mutation(
        "a permutation by half of the bits",
        "core/random.py",
        "(words[:n] << 32) | words[n:]",
        "words[:n] >> 28",
        f"{RANDOM}::test_every_order_is_as_likely",
    ),
    Mutation(
        "a damaged checkpoint is read",
        "core/runs/checkpoint.py",
        "    if not is_whole(content, 8 + len(header)):",
        "    if False:",
        "tests/core/test_checkpoint.py::test_any_flipped_byte_is_refused",
    ),
    Mutation(
        "the digest leaves out the end of the file",
        "core/runs/signed.py",
        "    digest.update(content[found.end(1) :])\n",
        "    digest.update(content[found.end(1) : -1])\n",
        "tests/core/test_checkpoint.py",
    ),
    Mutation(
        "a checkpoint of another net is taken",
        "core/runs/checkpoint.py",
        "        tree.check_flat(flat, {name: _stored(leaf) for name, leaf in expected.items()})\n",
        "        pass\n",
        "tests/core/test_checkpoint.py::test_a_checkpoint_of_another_net_is_named",
    ),
    Mutation(
        "a file is written in its place",
        "core/runs/files.py",
        "    temporary.replace(path)\n",
        "    path.write_bytes(temporary.read_bytes())\n",
        "tests/core/test_checkpoint.py::test_who_reads_the_last_one_is_not_disturbed",
    ),
    Mutation(
        "a history loses its last digits",
        "core/runs/history.py",
        "{name: repr(value) for name, value in row.items()}",
        '{name: f"{value:.9g}" for name, value in row.items()}',
        "tests/core/test_history.py",
    ),
    Mutation(
        "a resumed run forgets its sums",
        "core/runs/folder.py",
        'return TrainState(**arrays), meta["history"], meta["sums"]',
        'return TrainState(**arrays), meta["history"], {}',
        "tests/scripts/test_train_rnn.py::test_resumed_equals_uninterrupted",
    ),
]

AUGMENTATION = [
    Mutation(
        "images are flipped upside down",
        "torch_nets/augment.py",
        'torch.where(rearrange(which, "b -> b 1 1 1"), x.flip(3), x)',
        'torch.where(rearrange(which, "b -> b 1 1 1"), x.flip(2), x)',
        f"{AUGMENT}::test_flip_mirrors_about_half",
    ),
    Mutation(
        "all images are moved alike",
        "torch_nets/augment.py",
        "moves = random.randint(key_like(key, x), (2, B), -padding, padding + 1)",
        "moves = random.randint(key_like(key, x), (2, 1), -padding, padding + 1).expand(2, B)",
        f"{AUGMENT}::test_crop_is_a_window_of_the_reflected_image",
    ),
    Mutation(
        "images are never moved all the way to one side",
        "torch_nets/augment.py",
        "-padding, padding + 1)",
        "-padding, padding)",
        f"{AUGMENT}::test_crop_is_a_window_of_the_reflected_image",
    ),
    Mutation(
        "mixed images keep the label of one of them",
        "torch_nets/augment.py",
        "mixed = (torch.lerp(a[other], a, share) for a in (x, soft))",
        "mixed = (torch.lerp(x[other], x, share), soft)",
        f"{AUGMENT}::test_augmented_and_mixup_hand_on_what_they_say",
    ),
    Mutation(
        "alternating flips mirror the same images in every epoch",
        "torch_nets/augment.py",
        "if int(step) * (int(batch_size) or len(y)) // len(y) % 2 else x_",
        "if False else x_",
        f"{AUGMENT}::test_alternately_flipped_batches_show_each_image_both_ways_in_two_epochs",
    ),
    Mutation(
        "a hole is one pixel too small",
        "torch_nets/augment.py",
        "(place >= 0) & (place < size)",
        "(place >= 0) & (place < size - 1)",
        f"{AUGMENT}::test_cutout_is_a_square_of_zeros",
    ),
]

PRIVACY_AND_PROCESSES = [
    Mutation(
        "the gradient of a batch is clipped, not that of each example",
        "torch_nets/analysis/ghost.py",
        "clip_factors(part.squared_norms().sqrt(), clip)",
        "clip_factors(part.squared_norms().sum().sqrt() + 0 * part.losses, clip)",
        f"{PER_EXAMPLE}::test_each_gradient_is_clipped_by_itself",
    ),
    Mutation(
        "noise of the multiplier alone",
        "torch_nets/analysis/privacy.py",
        "add_noise(total, key, noise_multiplier * clip * scale",
        "add_noise(total, key, noise_multiplier * scale",
        f"{PER_EXAMPLE}::test_noise_has_the_deviation_it_should",
    ),
    Mutation(
        "all leaves get the same noise",
        "torch_nets/analysis/noise.py",
        "begin, block = begin + n, block[n:]",
        "begin += n",
        f"{PER_EXAMPLE}::test_noise_is_another_one_in_every_leaf_and_step",
    ),
    Mutation(
        "clipping lengthens short gradients",
        "torch_nets/analysis/ghost.py",
        "return torch.where(factors < 1, factors, torch.ones_like(factors))",
        "return factors",
        f"{PER_EXAMPLE}::test_each_gradient_is_clipped_by_itself "
        f"{PER_EXAMPLE}::test_without_noise_and_clip_it_is_sgd",
    ),
    Mutation(
        "all examples drop the same units",
        "torch_nets/analysis/ghost_pass.py",
        "    return random.split(key, n)\n",
        "    return key.expand(n, -1)\n",
        f"{PER_EXAMPLE}::test_each_example_has_a_dropout_of_its_own",
    ),
    Mutation(
        "influence of the other sign",
        "torch_nets/analysis/per_example.py",
        "rows_of(widened(g)) @ widened(r).flatten()",
        "-(rows_of(widened(g)) @ widened(r).flatten())",
        f"{PER_EXAMPLE}::test_planted_labels_are_hardest_and_do_harm",
    ),
    Mutation(
        "processes share one part of the batch",
        "torch_nets/distributed.py",
        "slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)",
        "slice(0, n // self.size)",
        "tests/torch_nets/test_ranks.py::test_parts_of_a_batch_are_a_partition",
    ),
    Mutation(
        "the gradient of several processes is a sum",
        "torch_nets/distributed.py",
        "message = total(widened(vector)) / group.size",
        "message = total(widened(vector))",
        "tests/torch_nets/test_ranks.py::test_means_over_ranks_are_means",
    ),
    Mutation(
        "a net that draws drops the same units on every rank",
        "torch_nets/distributed.py",
        "random.fold_in(key, group.rank)",
        "key",
        "tests/torch_nets/test_ranks.py::test_each_rank_draws_by_its_own_key",
    ),
    Mutation(
        "an evaluation weighs parts of any size alike",
        "torch_nets/distributed.py",
        "share = len(batch[1]) * group.size / n",
        "share = 1",
        "tests/torch_nets/test_ranks.py::test_metrics_of_parts_are_weighed_by_their_size",
    ),
    Mutation(
        "gradients through BatchNorm's sums stay on their rank",
        "torch_nets/distributed.py",
        "        return _all_reduced(gradient)\n",
        "        return gradient\n",
        "tests/torch_nets/test_ranks.py::test_batch_norm_is_that_of_the_whole_batch",
    ),
    Mutation(
        "shards are added in the order of their arrival",
        "torch_nets/shards.py",
        "for part in gather(vector.detach()):",
        "for part in reversed(gather(vector.detach())):",
        "tests/torch_nets/test_shards.py::test_sums_are_taken_in_the_order_of_the_shards",
    ),
    Mutation(
        "shards draw by the rank that computes them",
        "torch_nets/shards.py",
        "random.fold_in(key, shard)",
        "random.fold_in(key, shard - own[0])",
        "tests/torch_nets/test_shards.py::test_each_shard_draws_by_its_own_key_whoever_computes_it",
    ),
    Mutation(
        "buffers that stay are averaged",
        "torch_nets/shards.py",
        "    return torch.where(old.abs() < FAR * mean.abs(), old + move, mean)\n",
        "    return mean\n",
        "tests/torch_nets/test_shards.py::test_buffers_that_do_not_move_keep_their_bits",
    ),
    Mutation(
        "half-precision shards are summed as they are",
        "torch_nets/shards.py",
        "        return widened(part)\n    return total + widened(part) if",
        "        return part\n    return total + part if",
        "tests/torch_nets/test_shards.py::"
        "test_half_precision_is_summed_in_float32_and_integers_are_the_first",
    ),
    Mutation(
        "each epoch of a loader draws the same",
        "torch_nets/loaders.py",
        "place.begin(epoch, _seed(random.fold_in(key, epoch)))",
        "place.begin(epoch, _seed(key))",
        "tests/torch_nets/test_loaders.py::"
        "test_an_epoch_is_the_one_of_the_loader_after_torchs_manual_seed",
    ),
    Mutation(
        "a loader that goes on has lost its place",
        "torch_nets/loaders.py",
        "            for _ in range(offset):\n",
        "            for _ in range(offset - 1):\n",
        "tests/torch_nets/test_loaders.py::"
        "test_a_training_on_a_loader_is_resumed_with_the_same_bits",
    ),
    Mutation(
        "workers make all batches each",
        "torch_nets/loaders.py",
        "self.steps[worker.id :: worker.num_workers]",
        "self.steps[:]",
        "tests/torch_nets/test_loaders.py::test_a_loader_yields_the_batches_of_the_steps_in_order",
    ),
    Mutation(
        "the Fisher matrix of sums of gradients",
        "torch_nets/analysis/curvature.py",
        "return tree.map(lambda g: g.mean(0), squares(params, buffers, batch)[0])",
        "return tree.map(lambda g: g.sum(0), squares(params, buffers, batch)[0])",
        "tests/torch_nets/test_curvature.py::test_fisher_is_the_mean_of_squares",
    ),
    Mutation(
        "ghost norms add their products in float32",
        "torch_nets/analysis/ghost_terms.py",
        "    wide = x.to(torch.promote_types(x.dtype, torch.float64))",
        "    wide = x",
        f"{USERS}::test_gradients_of_near_duplicates_are_clipped",
    ),
]

AREAS: dict[str, list[Mutation]] = {
    "experiments": EXPERIMENTS,
    "benchmarks": BENCHMARKS,
    "optimizers and schedules": OPTIMIZERS,
    "backpropagation by hand": BACKPROP,
    "layers, losses, ensembles": LAYERS_AND_LOSSES,
    "training loop": LOOP,
    "metrics": METRICS_,
    "data and palindromes": DATA_,
    "keys, checkpoints, runs": KEYS_AND_RUNS,
    "augmentation": AUGMENTATION,
    "per-example gradients, privacy, processes": PRIVACY_AND_PROCESSES,
}
