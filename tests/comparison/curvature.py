"""The tables of curvature and of uncertainty."""

from collections.abc import Callable

from tests.comparison.members import keys, members_of, numbers, numbers_in_jax
from tests.comparison.problem import batches, net, vectors
from tests.comparison.table import Cell, Section, mapped, named, row

ANALYSIS = "torch_nets.analysis"
COLUMNS = ("purenets", "func", "curvlinops", "laplace", "posteriors", "optax")

# --- ours: each member has its own params, batch and key ------------------------------------------


def ours(name: str, run: Callable, *more: Callable, vmap: str = "members") -> Cell:
    """Return the cell of a function of ours, a name in `torch_nets.analysis`.

    Args:
        name: of the function.
        run: `run(function, model, params, batch, *rest)`.
        more: functions that return the rest, with a leading axis of members.
        vmap: as in `Cell`.

    Returns:
        The cell.
    """

    def members() -> tuple:
        from tests.comparison.libraries import load

        module, _, function = name.partition(".")
        f = getattr(load(f"purenets.{ANALYSIS}.{module}"), function)
        model, params = net()
        called = lambda params, x, y, *rest: run(f, model, params, (x, y), *rest)
        return called, members_of(params), *batches(), *(make() for make in more)

    return mapped(f"{ANALYSIS}.{name}", members, vmap)


def loss_of(model, batch: tuple) -> Callable:
    from torch.nn.functional import cross_entropy

    return lambda params: cross_entropy(model.apply(params, {}, batch[0])[0], batch[1])


def ggn(model, params: dict, batch: tuple) -> Callable:
    """Return v -> G v."""
    from torch.nn.functional import cross_entropy

    from purenets.torch_nets.analysis.curvature import ggn_vp

    outputs, loss = lambda p: model.apply(p, {}, batch[0])[0], lambda z: cross_entropy(z, batch[1])
    return lambda v: ggn_vp(outputs, loss, params, v)


def estimate(products: int) -> Callable:
    """Return the run of an estimator f(product, params, key, products)."""
    return lambda f, model, p, batch, key: f(ggn(model, p, batch), p, key, products)


def damped_ggn(model, params: dict, batch: tuple) -> Callable:
    from purenets.torch_nets.analysis.operators import damped

    return damped(ggn(model, params, batch), 0.1)


def of_posterior(run: Callable) -> Callable:
    """Return the run of a function of a diagonal posterior."""

    def called(f, model, params, batch, *rest):
        from purenets.torch_nets.analysis.laplace import diagonal_laplace

        return run(f, model, diagonal_laplace(model, params, {}, batch), batch[0], *rest)

    return called


def laplace(f, model, params, batch, *rest):
    """Return the evidence, and the variances of all params."""
    import torch

    posterior = f(model, params, {}, batch)
    ones = {name: torch.ones_like(p) for name, p in posterior.mean.items()}
    return posterior.log_marginal_likelihood, posterior.covariance_vp(ones)


def kfac_solved(f, model, params, batch, v):
    from purenets.torch_nets.analysis.kfac import kfac

    return f(kfac(model, params, {}, batch), v, 0.1)


def rooted(f, model, params, batch, v):
    import torch

    from purenets.torch_nets.analysis.kfac import kfac

    return f(kfac(model, params, {}, batch), v, torch.sqrt)


def probit(f, model, posterior, x):
    from purenets.torch_nets.analysis.laplace import linearized_predictive

    return f(*linearized_predictive(model, posterior, {}, x))


# --- theirs ---------------------------------------------------------------------------------------


def in_torch(run: Callable, *more: Callable) -> Callable:
    """Return the members of `run(loss, params, *rest)`, the loss one of the member's own batch."""

    def members() -> tuple:
        model, params = net()
        called = lambda params, x, y, *rest: run(loss_of(model, (x, y)), params, *rest)
        return called, members_of(params), *batches(), *(make() for make in more)

    return members


def hvp_by_func(f, params, v):
    import torch

    return torch.func.jvp(torch.func.grad(f), (params,), (v,))[1]


def hessian_by_func(f, params):
    import torch

    return torch.func.hessian(f)(params)


def linearized_by_func(f, params, v):
    import torch

    return torch.func.linearize(f, params)[1](v)


def posteriors():
    """Return the library, which warns while it is imported."""
    from tests.comparison.libraries import load

    return load("posteriors")


def in_posteriors(run: Callable, *more: Callable) -> Callable:
    """Return the members of `run(library, outputs, loss, params, *rest)`."""

    def members() -> tuple:
        from torch.nn.functional import cross_entropy

        model, params = net()
        library = posteriors()

        def called(params, x, y, *rest):
            outputs = lambda p: model.apply(p, {}, x)[0]
            return run(library, outputs, lambda z: cross_entropy(z, y), params, *rest)

        return called, members_of(params), *batches(), *(make() for make in more)

    return members


def hvp_of_posteriors(library, outputs, loss, params, v):
    return library.hvp(lambda p: loss(outputs(p)), (params,), (v,))[1]


def ggnvp_of_posteriors(library, outputs, loss, params, v):
    return library.ggnvp(outputs, loss, (params,), (v,))[1]


def ggn_of_posteriors(library, outputs, loss, params):
    return library.ggn(outputs, loss)(params)


def diag_ggn_of_posteriors(library, outputs, loss, params):
    return library.diag_ggn(outputs, loss)(params)


def fisher_of_posteriors(library, outputs, loss, params):
    return library.empirical_fisher(lambda p: outputs(p).log_softmax(-1)[:, 0])(params)


def cg_of_posteriors(library, outputs, loss, params, v):
    product = lambda v: {
        n: a + b
        for (n, a), b in zip(
            library.ggnvp(outputs, loss, (params,), (v,))[1].items(), v.values(), strict=True
        )
    }
    return library.cg(product, v, maxiter=5)[0]


def linearized_of_posteriors(library, outputs, loss, params, v):
    deviations = {name: leaf.abs() for name, leaf in v.items()}
    forward = lambda p, batch: (outputs(p), outputs(p)[:0])
    return library.linearized_forward_diag(forward, params, None, deviations)[:2]


def laplace_of_posteriors(library, outputs, loss, params):
    forward = lambda p, batch: (outputs(p), outputs(p)[:0])
    log_likelihood = lambda z, batch: -loss(z)
    transform = library.laplace.diag_ggn.build(forward, log_likelihood, 1.0)
    return transform.update(transform.init(params), None)[0].prec_diag


def sample_of_posteriors(library, outputs, loss, params, v):
    state = library.laplace.diag_ggn.DiagLaplaceState(params, {n: p**2 for n, p in v.items()})
    return library.laplace.diag_ggn.sample(state)


def sampler_of_posteriors(name: str) -> Callable:
    """Return the run of one step of a sampler."""

    def run(library, outputs, loss, params):
        log_posterior = lambda p, batch: (-loss(outputs(p)), outputs(p)[:0])
        transform = getattr(library.sgmcmc, name).build(log_posterior, lr=0.1)
        return transform.update(transform.init(params), None)[0].params

    return run


def matrices():
    """Return a symmetric matrix for each member."""
    A = numbers(8, 8)
    return A @ A.mT


def estimate_of_curvlinops(name: str, products: int) -> Callable:
    """Return the members of an estimator of curvlinops, of dense matrices."""

    def members() -> tuple:
        from tests.comparison.libraries import load

        f = getattr(load("curvlinops"), name)
        return lambda A: f(A, products), matrices()

    return members


def second_order_of_optax(name: str) -> Callable:
    """Return the members of a function of `optax.second_order`."""

    def members() -> tuple:
        import jax
        import optax

        def loss(params, x, y):
            logits = x @ params["w"]
            return optax.losses.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        def called(w, v, x):
            y = jax.numpy.arange(5) % 2
            f = getattr(optax.second_order, name)
            arguments = {"w": w}, x, y
            return f(loss, v, *arguments) if name == "hvp" else f(loss, *arguments)

        return called, numbers_in_jax(3, 2), numbers_in_jax(6), numbers_in_jax(5, 3)

    return members


def hutchinson_of_optax() -> tuple:
    import jax
    import optax

    def called(w, key):
        estimator = optax.contrib.hutchinson_estimator_diag_hessian(key)
        f = lambda params: jax.numpy.cos(params["w"]).sum()
        params = {"w": w}
        return estimator.update(params, estimator.init(params), params, obj_fn=f)[0]

    return called, numbers_in_jax(6), jax.random.split(jax.random.key(0), 3)


# --- the tables -----------------------------------------------------------------------------------

CURVATURE = [
    row(
        "Product with the Hessian",
        "hvp hessian hessianlinearoperator",
        purenets=ours("curvature.hvp", lambda f, m, p, b, v: f(loss_of(m, b), p, v), vectors),
        func=mapped("func.jvp", in_torch(hvp_by_func, vectors)),
        curvlinops=named("HessianLinearOperator"),
        laplace=named("curvature.CurvlinopsHessian"),
        posteriors=mapped("hvp", in_posteriors(hvp_of_posteriors, vectors)),
        optax=mapped("second_order.hvp", second_order_of_optax("hvp")),
    ),
    row(
        "Product with the Gauss-Newton matrix",
        "ggn(vp)? gaussnewton.*",
        purenets=ours("curvature.ggn_vp", lambda f, m, p, b, v: ggn(m, p, b)(v), vectors),
        curvlinops=named("GGNLinearOperator"),
        laplace=named("curvature.CurvlinopsGGN"),
        posteriors=mapped("ggnvp", in_posteriors(ggnvp_of_posteriors, vectors)),
    ),
    row(
        "The dense matrix",
        "(to)?dense(ggn)?",
        purenets=ours("operators.to_dense", lambda f, m, p, b: f(ggn(m, p, b), p)),
        func=mapped("func.hessian", in_torch(hessian_by_func)),
        laplace=named("FullLaplace"),
        posteriors=mapped("ggn", in_posteriors(ggn_of_posteriors)),
    ),
    row(
        "Diagonal of the Gauss-Newton matrix, exactly",
        "(diag(onal)?)ggn ggn(diag(onal)?)",
        purenets=ours("diagonal.ggn_diagonal", lambda f, m, p, b: f(m, p, {}, b)),
        laplace=named("curvature.BackPackGGN.diag"),
        posteriors=mapped("diag_ggn", in_posteriors(diag_ggn_of_posteriors)),
    ),
    row(
        "Empirical Fisher matrix",
        "(empirical)?fisher(diag(onal)?)? ef",
        purenets=ours("curvature.fisher_diagonal", lambda f, m, p, b: f(m, p, {}, b)),
        curvlinops=named("EFLinearOperator"),
        laplace=named("curvature.CurvlinopsEF"),
        posteriors=mapped("empirical_fisher", in_posteriors(fisher_of_posteriors)),
        optax=mapped("second_order.fisher_diag", second_order_of_optax("fisher_diag")),
    ),
    row(
        "Trace by Hutchinson",
        "hutchinsontrace",
        purenets=ours("trace.hutchinson_trace", estimate(6), keys),
        curvlinops=mapped(
            "hutchinson_trace", estimate_of_curvlinops("hutchinson_trace", 4), "draws"
        ),
    ),
    row(
        "Trace by Hutch++",
        "hutchpptrace",
        purenets=ours("trace.hutchpp_trace", estimate(6), keys),
        curvlinops=mapped("hutchpp_trace", estimate_of_curvlinops("hutchpp_trace", 3), "draws"),
    ),
    row(
        "Trace by XTrace",
        "xtrace",
        purenets=ours("trace.xtrace", estimate(6), keys),
        curvlinops=mapped("xtrace", estimate_of_curvlinops("xtrace", 6), "draws"),
    ),
    row(
        "Diagonal by Hutchinson",
        "hutchinsondiag.*",
        purenets=ours("diagonal.hutchinson_diag", estimate(6), keys),
        curvlinops=mapped("hutchinson_diag", estimate_of_curvlinops("hutchinson_diag", 4), "draws"),
        optax=mapped("contrib.hutchinson_estimator_diag_hessian", hutchinson_of_optax),
    ),
    row(
        "Diagonal by XDiag",
        "xdiag",
        purenets=ours("diagonal.xdiag", estimate(6), keys),
        curvlinops=mapped("xdiag", estimate_of_curvlinops("xdiag", 6), "draws"),
    ),
    row(
        "Largest and smallest eigenvalues by Lanczos",
        "lanczos eigsh",
        purenets=ours(
            "curvature.lanczos",
            lambda f, m, p, b, key: f(ggn(m, p, b), p, key, 4)[0],
            keys,
            vmap="",
        ),
    ),
    row(
        "Density of the spectrum",
        "spectraldensity spectralmeasure lanczosapproximate.*spectrum.*",
        purenets=ours("quadrature.spectral_measure", estimate(4), keys),
        curvlinops=named("lanczos_approximate_spectrum"),
    ),
    row(
        "Trace of a function, log-determinant",
        "slq.* stochasticlanczosquadrature",
        purenets=ours(
            "quadrature.slq_trace",
            lambda f, m, p, b, key: f(lambda e: e**2, damped_ggn(m, p, b), p, key, 4),
            keys,
        ),
    ),
    row(
        "Conjugate gradients",
        "cg conjugategradients?",
        purenets=ours(
            "conjugate_gradients.cg",
            lambda f, m, p, b, v: f(damped_ggn(m, p, b), v, maxiter=5)[0],
            vectors,
        ),
        curvlinops=named("CGInverseLinearOperator"),
        posteriors=mapped("cg", in_posteriors(cg_of_posteriors, vectors), ""),
    ),
    row(
        "Gauss-Newton step as a gradient",
        "gaussnewton(gradfn)?",
        purenets=ours(
            "conjugate_gradients.gauss_newton_grad_fn",
            lambda f, m, p, b, key: f(m, damping=0.1, maxiter=5)(p, {}, b, key)[0],
            keys,
        ),
    ),
    row(
        "KFAC",
        "kfac.*",
        purenets=ours("kfac.kfac", lambda f, m, p, b: [(k.A, k.B) for k in f(m, p, {}, b)]),
        curvlinops=named("KFACLinearOperator"),
        laplace=named("curvature.CurvlinopsGGN.kron"),
    ),
    row(
        "KFAC, inverted",
        "kfac(inverse|solve).*",
        purenets=ours("kfac.kfac_solve", kfac_solved, vectors),
        curvlinops=named("KFACInverseLinearOperator"),
        laplace=named("KronLaplace.posterior_precision"),
    ),
    row(
        "A function of KFAC's matrix, such as its root",
        "kfacfunction",
        purenets=ours("kfac.kfac_function", rooted, vectors),
    ),
    row(
        "KFAC with corrected eigenvalues",
        "ekfac.*",
        curvlinops=named("EKFACLinearOperator"),
    ),
    row(
        "Neural tangent kernel",
        "ntk neuraltangentkernel",
        purenets=ours("curvature.ntk", lambda f, m, p, b: f(m, p, {}, b[0], b[0])),
    ),
    row(
        "The net linearized in its params",
        "lineari[sz]ed?.*",
        purenets=ours(
            "curvature.linearize", lambda f, m, p, b, v: f(m, p).apply(v, {}, b[0])[0], vectors
        ),
        func=mapped("func.linearize", in_torch(linearized_by_func, vectors), ""),
        posteriors=mapped(
            "linearized_forward_diag", in_posteriors(linearized_of_posteriors, vectors)
        ),
    ),
]
SAMPLERS = "lr, key=purenets.random.key(0)"
UNCERTAINTY = [
    row(
        "Laplace, diagonal",
        "diag(onal)?laplace",
        purenets=ours("laplace.diagonal_laplace", laplace),
        laplace=named("DiagLaplace"),
        posteriors=mapped("laplace.diag_ggn", in_posteriors(laplace_of_posteriors)),
    ),
    row(
        "Laplace, KFAC",
        "(kron|kfac)laplace",
        purenets=ours("laplace.kfac_laplace", laplace),
        laplace=named("KronLaplace"),
    ),
    row(
        "Laplace, last layer",
        "(ll|lastlayer)laplace",
        purenets=ours("laplace.last_layer_laplace", laplace),
        laplace=named("FullLLLaplace"),
    ),
    row(
        "Evidence, to choose a prior",
        "(log)?marginallikelihood evidence",
        purenets=mapped(
            f"{ANALYSIS}.laplace.Posterior.log_marginal_likelihood",
            ours("laplace.diagonal_laplace", laplace).members,
        ),
        laplace=named("DiagLaplace.log_marginal_likelihood"),
    ),
    row(
        "Samples of the params",
        "samplesposterior",
        purenets=ours(
            "laplace.sample_posterior", of_posterior(lambda f, m, q, x, key: f(q, key, 2)), keys
        ),
        laplace=named("DiagLaplace.sample"),
        posteriors=mapped(
            "laplace.diag_ggn.sample", in_posteriors(sample_of_posteriors, vectors), "draws"
        ),
    ),
    row(
        "Normal logits of the linearized net",
        "linearizedpredictive",
        purenets=ours(
            "laplace.linearized_predictive", of_posterior(lambda f, m, q, x: f(m, q, {}, x))
        ),
        laplace=named("DiagLaplace.functional_variance"),
        posteriors=mapped(
            "linearized_forward_diag", in_posteriors(linearized_of_posteriors, vectors)
        ),
    ),
    row(
        "Their class probabilities (probit)",
        "probit.*",
        purenets=ours("laplace.probit_predictive", of_posterior(probit)),
        laplace=named("LinkApprox.PROBIT"),
    ),
    row(
        "Langevin dynamics, a sampler",
        "sgld",
        purenets=Cell("optim.sgld", f"purenets.optim.sgld({SAMPLERS})"),
        posteriors=mapped("sgmcmc.sgld", in_posteriors(sampler_of_posteriors("sgld")), "draws"),
        optax=Cell("noisy_sgd", "optax.noisy_sgd(lr, key=0)"),
    ),
    row(
        "Hamiltonian Monte Carlo, a sampler",
        "sghmc",
        purenets=Cell("optim.sghmc", f"purenets.optim.sghmc({SAMPLERS})"),
        posteriors=mapped("sgmcmc.sghmc", in_posteriors(sampler_of_posteriors("sghmc")), "draws"),
    ),
    row(
        "Expected calibration error",
        "(expected)?calibrationerror ece",
        purenets=named("core.metrics.expected_calibration_error"),
    ),
]
CURVATURE_TEXT = """\
Our operators are functions of dicts of params, those of curvlinops are objects that own a module
and its data, and those of laplace-torch are methods of a module's posterior. Checked under vmap:
each member with its own params, batch and key, on an MLP; for the estimators of curvlinops, on
dense matrices. "One draw" means that torch's generator draws the same numbers for all members. In
purenets and optax every draw is a function of a key, so each member has its own. torch.func's jvp,
vjp and jacrev are building blocks for other products."""
UNCERTAINTY_TEXT = """\
Checked under vmap: as above. The samplers of purenets and optax are checked as optimizers, each
member with its own rate."""
SECTIONS = [
    Section("Curvature", CURVATURE_TEXT, COLUMNS, CURVATURE),
    Section("Uncertainty", UNCERTAINTY_TEXT, COLUMNS, UNCERTAINTY),
]
