"""Layers against naive loops."""

import functools
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from export.core import example_batch
from recsys.data.request import take_roles
from recsys.layers.attention import LocalActivationUnit
from recsys.layers.embedding import FeatureEmbedding, PairEmbedding, Table
from recsys.layers.fm import fm, fm_of_parts
from recsys.layers.mlp import MLP, Dice, Part, PReLU, linear_of_parts
from recsys.schema import CONTEXT, ITEM, PADDING


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 4), fields=st.integers(1, 6), dim=st.integers(1, 5), seed=st.integers(0, 99))
def test_fm_equals_the_naive_double_sum(rows, fields, dim, seed):
    emb_BFD = torch.randn(rows, fields, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for score, vectors in zip(fm(emb_BFD), emb_BFD, strict=True):
        naive = sum((torch.dot(a, b) for a, b in itertools.combinations(vectors, 2)), torch.tensor(0.0))
        torch.testing.assert_close(score, naive.double())


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 4), fields=st.integers(1, 4), numbers=st.integers(1, 3), seed=st.integers(0, 99))
def test_fm_of_parts_is_fm_of_the_vectors_that_it_does_not_make(rows, fields, numbers, seed):
    draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    inputs = draw(rows, fields, 5, requires_grad=True), draw(rows, numbers), draw(numbers, 5, requires_grad=True)
    emb_BFD, x_BN, times_ND = inputs
    whole = fm(torch.cat([emb_BFD, x_BN.unsqueeze(-1) * times_ND], 1))
    torch.testing.assert_close(fm_of_parts(*inputs), whole)
    assert torch.autograd.gradcheck(fm_of_parts, inputs)


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("activation", ["relu", "prelu", "dice"])
def test_attention_equals_a_row_by_row_loop(activation, softmax):
    torch.manual_seed(0)
    unit = LocalActivationUnit(4, (6, 3), activation=activation, softmax=softmax).double().eval()
    query_BD, key_BLD = torch.randn(5, 4).double(), torch.randn(5, 7, 4).double()
    length_B = torch.tensor([0, 1, 3, 6, 7])
    mask_BL = torch.arange(7) < length_B[:, None]
    out_BD = unit(query_BD, key_BLD, mask_BL)
    for query, keys, length, out in zip(query_BD, key_BLD, length_B, out_BD, strict=True):
        weights = []
        for key in keys[:length]:
            x = unit.query(query) + unit.key(key) + unit.product(query * key)
            x = unit.activations[0](x)
            x = unit.activations[1](unit.inner[0](x))
            weights.append(unit.out(x).squeeze())
        if softmax and weights:
            weights = list(torch.stack(weights).softmax(0))
        expected = sum((w * k for w, k in zip(weights, keys, strict=False)), torch.zeros(4).double())
        torch.testing.assert_close(out, expected)


def test_attention_first_layer_spans_the_concatenation():
    """W [q, k, q - k, q * k] is W_q' q + W_k' k + W_p q * k, so the split form loses nothing."""
    torch.manual_seed(0)
    whole = torch.randn(5, 4 * 3)
    q, k = torch.randn(3), torch.randn(3)
    of_q, of_k, of_difference, of_product = whole.split(3, dim=1)
    split = (of_q + of_difference) @ q + (of_k - of_difference) @ k + of_product @ (q * k)
    torch.testing.assert_close(whole @ torch.cat([q, k, q - k, q * k]), split)


@pytest.mark.parametrize("activation", ["relu", "dice"])
def test_attention_ignores_what_lies_under_the_mask_even_in_training(activation):
    torch.manual_seed(0)
    unit = LocalActivationUnit(4, (6,), activation=activation).train()
    query_BD, key_BLD = torch.randn(3, 4), torch.randn(3, 5, 4)
    mask_BL = torch.arange(5) < torch.tensor([[0], [2], [5]])
    garbage_BLD = torch.where(mask_BL.unsqueeze(-1), key_BLD, 1e6)
    torch.testing.assert_close(unit(query_BD, garbage_BLD, mask_BL), unit(query_BD, key_BLD, mask_BL))
    assert not unit(query_BD, key_BLD, mask_BL)[0].any()


@pytest.mark.parametrize("softmax", [False, True])
def test_attention_is_the_same_in_training_where_it_skips_the_padding(softmax):
    torch.manual_seed(0)
    unit = LocalActivationUnit(4, (6, 3), activation="prelu", softmax=softmax).double()
    query_BD, key_BLD = torch.randn(5, 4).double(), torch.randn(5, 7, 4).double()
    mask_BL = torch.arange(7) < torch.tensor([[0], [1], [3], [6], [7]])
    grads = []
    for training in (True, False):
        unit.train(training).zero_grad()
        out_BD = unit(query_BD, key_BLD, mask_BL)
        out_BD.sin().sum().backward()
        grads.append([out_BD.detach(), *(p.grad.clone() for p in unit.parameters())])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


def test_dice_in_training_standardises_by_the_batch_and_remembers_it():
    dice = Dice(1, momentum=1.0).train()
    x = torch.tensor([[1.0], [3.0]])
    mean, var = (1 + 3) / 2, ((1 - 2) ** 2 + (3 - 2) ** 2) / 2
    expected = x * torch.sigmoid((x - mean) / var**0.5)
    torch.testing.assert_close(dice(x), expected)
    torch.testing.assert_close(dice.running_mean, torch.tensor([mean]))
    torch.testing.assert_close(dice.eval()(x), expected)


def test_dice_of_nothing_keeps_its_memory():
    dice = Dice(2).train()
    assert dice(torch.randn(0, 2)).shape == (0, 2)
    assert torch.equal(dice.running_mean, torch.zeros(2))
    assert torch.equal(dice.running_var, torch.ones(2))


def test_prelu_agrees_with_torch():
    ours, theirs = PReLU(3), torch.nn.PReLU(3)
    x = torch.randn(8, 3)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("option", "value"), [("dropout", 1.0), ("dropout", -0.1), ("hidden", [8, 0]), ("hidden", "8")]
)
def test_mlp_refuses_bad_options_by_name(option, value):
    options = {"hidden": [8], "dropout": 0.0, option: value}
    with pytest.raises(ValueError, match=f"`{option}` must be"):
        MLP(4, **options)


def test_mlp_refuses_an_unknown_activation_naming_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'prelu'"):
        MLP(4, [8], activation="prlu")


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_of_parts_is_the_layer_of_their_join(bias):
    torch.manual_seed(0)
    linear = torch.nn.Linear(5, 3, bias=bias).double()
    shared_1P, own_BP = torch.randn(1, 2).double(), torch.randn(4, 3).double()
    joined = torch.stack([*own_BP.T[:1], *shared_1P.expand(4, -1).T, *own_BP.T[1:]], 1)
    parts = [Part(shared_1P, [1, 2]), Part(own_BP, [0, 3, 4])]
    torch.testing.assert_close(linear_of_parts(linear, parts), linear(joined))


@pytest.mark.parametrize(
    "options", [{"hidden": []}, {"hidden": [4]}, {"hidden": [4, 2], "activation": "dice", "batch_norm": True}]
)
def test_an_mlp_of_parts_makes_parts_of_the_next_layers_input(options):
    torch.manual_seed(0)
    mlp = MLP(5, **options, dropout=0.5).double().eval()
    out = torch.nn.Linear(mlp.out_features, 1).double()
    shared_1P, own_BP = torch.randn(1, 3).double(), torch.randn(4, 2).double()
    parts = [Part(shared_1P, [0, 1, 4]), Part(own_BP, [2, 3])]
    joined = torch.cat([shared_1P[:, :2].expand(4, -1), own_BP, shared_1P[:, 2:].expand(4, -1)], 1)
    torch.testing.assert_close(linear_of_parts(out, mlp.forward_parts(parts)), out(mlp(joined)))


def test_padding_and_unseen_rows_start_at_zero_and_padding_stays(schema):
    table = FeatureEmbedding(schema, 4).table
    starts = [PADDING, *(schema.offset(c.name) for c in (*schema.fields, *schema.tags))]
    assert not table.weight[starts].any()
    assert table.weight.any(1).sum() == schema.rows - len(starts)
    table(torch.zeros(2, 3, dtype=torch.int64)).sum().backward()
    assert not table.weight.grad.any()


def test_mean_pooling_counts_real_tags_only(schema):
    table = FeatureEmbedding(schema, 4).table
    a, b = schema.offset("tags") + 1, schema.offset("tags") + 2
    ids = torch.tensor([[a, b, 0], [a, 0, 0], [0, 0, 0]])
    weight = table.weight
    expected = torch.stack([(weight[a] + weight[b]) / 2, weight[a], torch.zeros(4)])
    torch.testing.assert_close(table.mean(ids), expected)


def test_l2_pulls_touched_rows_only_each_as_often_as_it_is_used():
    table = Table(5, 2, [], std=1.0, sparse=False, l2=0.1).train()
    ids_BF = torch.tensor([[1, 2], [1, 3]])
    table(ids_BF)
    weight = table.weight.detach()
    expected = 0.1 * (2 * weight[1].square().sum() + weight[2].square().sum() + weight[3].square().sum()) / 2
    torch.testing.assert_close(table.penalty.detach(), expected)
    table.penalty.backward()
    torch.testing.assert_close(table.weight.grad[1], 0.1 * 2 * 2 * weight[1] / 2)
    assert not table.weight.grad[4].any()
    assert table.eval()(ids_BF) is not None
    torch.testing.assert_close(table.penalty.detach(), expected)


def test_l2_of_lists_is_a_mean_over_the_rows_of_the_batch():
    """Bug: it was divided by the length of the lists, so its strength grew with the batch."""
    table = Table(6, 2, [], std=1.0, sparse=False, l2=0.1).train()
    table.mean(torch.tensor([[1, 2], [3, 0], [1, 0]]))
    weight = table.weight.detach()
    expected = 0.1 * (2 * weight[1].square().sum() + weight[2].square().sum() + weight[3].square().sum()) / 3
    torch.testing.assert_close(table.penalty.detach(), expected)


def test_feature_embedding_holds_fields_then_tags_then_numbers(schema):
    embedding = FeatureEmbedding(schema, 4)
    batch = example_batch(schema, rows=3, length=2)
    emb_BFD = embedding(batch)
    fields = len(schema.fields)
    assert emb_BFD.shape == (3, fields + 1 + 1, 4)
    torch.testing.assert_close(emb_BFD[:, :fields], embedding.table(batch.ids_BF))
    torch.testing.assert_close(emb_BFD[:, fields], embedding.table.mean(batch.lists["tags"]))
    torch.testing.assert_close(emb_BFD[:, -1], batch.numbers_BN[:, :1] * embedding.number[0])


def test_pair_embedding_keeps_rows_for_users_and_items_only(schema):
    pair = PairEmbedding(schema, 2)
    assert len(pair.table.weight) == 1 + schema.size("user") + schema.size("item")
    batch = example_batch(schema, rows=50, length=1)
    user_B = batch.ids_BF[:, 0] - schema.offset("user")
    item_B = batch.ids_BF[:, [c.name for c in schema.fields].index("item")] - schema.offset("item")
    vectors = pair(batch)
    torch.testing.assert_close(vectors[:, 0], pair.table.weight[1 + user_B])
    torch.testing.assert_close(vectors[:, 1], pair.table.weight[1 + schema.size("user") + item_B])


@pytest.mark.parametrize("roles", [CONTEXT, ITEM, ("user",), ("scene",), ("user", "item")])
def test_the_columns_of_some_roles_get_the_vectors_they_have_among_all(every_role, roles):
    embedding = FeatureEmbedding(every_role, 4)
    batch = example_batch(every_role, rows=6, length=2)
    emb_BFD, places = embedding(batch), embedding.places(roles)
    part_BFD = embedding(take_roles(batch, every_role, roles), roles)
    torch.testing.assert_close(part_BFD, emb_BFD[:, places])
    torch.testing.assert_close(part_BFD.flatten(1), emb_BFD.flatten(1)[:, embedding.flat_places(roles)])


def test_places_are_counted_over_fields_then_tags_then_numbers(every_role):
    embedding = FeatureEmbedding(every_role, 2)
    # user, age, item, category, hour; hobbies, tags; height, price, noise
    assert embedding.places(CONTEXT) == [0, 1, 4, 5, 7, 9]
    assert embedding.places(ITEM) == [2, 3, 6, 8]
    assert embedding.flat_places(("scene",)) == [8, 9, 18, 19]


def test_the_users_and_the_items_vector_alone_are_those_of_the_pair(every_role):
    pair = PairEmbedding(every_role, 4)
    batch = example_batch(every_role, rows=6, length=2)
    user_BD, item_BD = pair(batch).unbind(1)
    torch.testing.assert_close(pair.user(take_roles(batch, every_role, CONTEXT)), user_BD)
    torch.testing.assert_close(pair.item(take_roles(batch, every_role, ITEM)), item_BD)


@pytest.mark.parametrize("softmax", [False, True])
def test_one_history_serves_all_candidates(softmax):
    torch.manual_seed(0)
    unit = LocalActivationUnit(4, (6, 3), softmax=softmax).double().eval()
    query_BD, key_1LD = torch.randn(5, 4).double(), torch.randn(1, 7, 4).double()
    mask_1L = torch.arange(7) < torch.tensor([[4]])
    repeated = unit(query_BD, key_1LD.expand(5, -1, -1), mask_1L.expand(5, -1))
    torch.testing.assert_close(unit(query_BD, key_1LD, mask_1L), repeated)


def test_a_part_of_products_is_multiplied_without_making_them():
    torch.manual_seed(0)
    linear = torch.nn.Linear(4 + 3 * 2, 5)
    x_B4, number_BN, times_ND = torch.randn(6, 4), torch.randn(6, 3), torch.randn(3, 2)
    whole = torch.cat([x_B4, (number_BN.unsqueeze(-1) * times_ND).flatten(1)], 1)
    parts = [Part(x_B4, range(4)), Part(number_BN, range(4, 10), times_ND)]
    torch.testing.assert_close(linear_of_parts(linear, parts), linear(whole))


def test_a_sparse_look_up_equals_the_dense_one_and_leaves_padding_alone():
    torch.manual_seed(0)
    sparse, dense = (Table(9, 4, [], std=1.0, sparse=flag, l2=0.0) for flag in (True, False))
    dense.load_state_dict(sparse.state_dict())
    ids_BF, padded_BT, weight = torch.tensor([[1, 3], [3, 8]]), torch.tensor([[2, 0], [0, 0]]), torch.randn(2, 2, 4)
    for table in (sparse, dense):
        looked_up = table(ids_BF, padded=False)
        assert torch.equal(looked_up, table.weight[ids_BF])
        ((looked_up + table(padded_BT)) * weight).sum().backward()
    assert sparse.weight.grad.is_sparse
    torch.testing.assert_close(sparse.weight.grad.to_dense(), dense.weight.grad)
    assert not dense.weight.grad[0].any()


@pytest.mark.parametrize("l2", [0.0, 0.5])
def test_the_sum_of_all_columns_is_the_sum_of_their_vectors(every_role, l2):
    torch.manual_seed(0)
    embedding = FeatureEmbedding(every_role, 3, std=1.0, l2=l2).train()
    batch = example_batch(every_role, rows=7, length=2)
    torch.testing.assert_close(embedding.sum(batch), embedding(batch).sum(1))
    penalties = []
    for forward in (embedding.forward, embedding.sum):
        embedding.table.penalty = 0.0
        forward(batch)
        penalties.append(float(torch.as_tensor(embedding.table.penalty)))
    assert penalties[0] == pytest.approx(penalties[1])


def test_a_sparse_table_is_exported_for_any_number_of_rows():
    """Bug: a graph of a model with sparse gradients looked up as many rows as the example that it was traced with."""
    table = Table(9, 4, [], std=1.0, sparse=True, l2=0.0).eval()
    rows = {"ids": {0: torch.export.Dim.DYNAMIC}, "padded": None}
    program = torch.export.export(table, (torch.ones(3, 2).long(),), {"padded": False}, dynamic_shapes=rows)
    ids_BF = torch.tensor([[1, 3], [3, 8], [8, 8], [2, 4], [5, 5]])
    assert torch.equal(program.module()(ids_BF, padded=False), table.weight[ids_BF])
