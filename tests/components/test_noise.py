import numpy
import torch

from components.diffusion import noise
from components.diffusion.noise import Stream


def words(*values):
    return tuple(torch.tensor([v]) for v in values)


def test_philox_gives_the_published_answers():
    """Known answers of the Random123 distribution for philox4x32-10."""
    cases = [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ]
    for counter, key, answer in cases:
        found = noise.philox(words(*counter), words(*key))
        assert tuple(int(w) for w in found) == answer


def test_words_are_the_same_in_numpy_and_in_torch():
    given = [torch.randint(0, 1 << 32, (5, 1 + 6 * (i == 0))) for i in range(6)]
    found = noise.philox(tuple(given[:4]), tuple(given[4:]))
    by_numpy = noise.philox(tuple(x.numpy() for x in given[:4]), tuple(x.numpy() for x in given[4:]))
    assert all(torch.equal(a, torch.from_numpy(b)) for a, b in zip(found, by_numpy, strict=True))
    keys = torch.cat(given[4:], 1)
    as_named = noise.philox((torch.arange(7)[None], given[1], given[2], torch.full((5, 1), 3)), tuple(given[4:]))
    high, low = as_named[0] >> 6, as_named[1] >> 6
    u = noise.uniform(keys, given[1][:, 0], given[2][:, 0], 7, 3)
    assert torch.equal(u, (high.double() * 2**26 + low + 0.5) / 2**52)


def test_a_draw_depends_on_nothing_but_its_name():
    ids = torch.arange(100)
    together = noise.uniform(noise.row_keys(7, ids), 3, 0, 11, Stream.TOKEN)
    alone = noise.uniform(noise.row_keys(7, ids[42:43]), torch.tensor([3]), torch.tensor([0]), 11, Stream.TOKEN)
    assert torch.equal(together[42:43], alone)
    longer = noise.uniform(noise.row_keys(7, ids), 3, 0, 20, Stream.TOKEN)
    assert torch.equal(together, longer[:, :11])


def test_every_part_of_the_name_matters():
    ids = torch.arange(4)
    base = noise.uniform(noise.row_keys(7, ids), 3, 0, 11, Stream.TOKEN)
    others = [
        noise.uniform(noise.row_keys(8, ids), 3, 0, 11, Stream.TOKEN),
        noise.uniform(noise.row_keys(7, ids + 4), 3, 0, 11, Stream.TOKEN),
        noise.uniform(noise.row_keys(7, ids, particle=1), 3, 0, 11, Stream.TOKEN),
        noise.uniform(noise.row_keys(7, ids, sweep=1), 3, 0, 11, Stream.TOKEN),
        noise.uniform(noise.row_keys(7, ids), 4, 0, 11, Stream.TOKEN),
        noise.uniform(noise.row_keys(7, ids), 3, 1, 11, Stream.TOKEN),
        noise.uniform(noise.row_keys(7, ids), 3, 0, 11, Stream.DRAFT),
    ]
    assert all((base != other).all() for other in others)


def test_uniforms_are_uniform_and_open():
    u = noise.uniform(noise.row_keys(1, torch.arange(2000)), 0, 0, 100, Stream.TOKEN)
    assert 0 < float(u.min()) < 1e-4
    assert 1 - 1e-4 < float(u.max()) < 1
    assert abs(float(u.mean()) - 0.5) < 6 * (1 / 12 / u.numel()) ** 0.5  # 6 sigma: false alarm 2e-9
    counts = torch.histc(u.float(), 64, 0, 1)
    statistic = float(((counts - u.numel() / 64) ** 2 / (u.numel() / 64)).sum())
    assert statistic < 63 + 6 * (2 * 63) ** 0.5


def test_uniforms_have_52_bits_and_never_reach_an_end(monkeypatch):
    """float64, no two of 2^20 alike (a float32 grid would have 30,000 pairs), and inside (0, 1) for extreme words."""
    u = noise.uniform(noise.row_keys(3, torch.arange(1024)), 5, 0, 1024, noise.Stream.TOKEN)
    assert u.dtype == torch.float64
    assert len(u.unique()) == u.numel()
    for word in (0, 0xFFFFFFFF):
        monkeypatch.setattr(noise, "philox", lambda counter, key, w=word: (numpy.full((1, 1), w),) * 4)
        end = float(noise.uniform(torch.zeros(1, 2, dtype=torch.long), 0, 0, 1, noise.Stream.TOKEN))
        assert 0 < end < 1
        assert abs(end - (word > 0)) < 1e-15


def test_a_stream_by_name_is_the_same_everywhere_and_nobody_elses():
    """The number is written down here, so that a change of the hash would be seen."""
    number = noise.named_stream("acme.shuffle")
    assert number == 2894471108
    assert number not in {int(stream) for stream in noise.Stream}
    assert number != noise.named_stream("acme.swap")
    keys = noise.row_keys(0, torch.arange(3))
    own = noise.uniform(keys, 1, 0, 50, number)
    assert torch.equal(own, noise.uniform(keys, 1, 0, 50, noise.named_stream("acme.shuffle")))
    assert not bool((own == noise.uniform(keys, 1, 0, 50, noise.Stream.TOKEN)).any())
    assert bool(noise.normal(keys, 1, 50, number).isfinite().all())


def test_rows_may_have_seeds_of_their_own():
    ids, seeds = torch.arange(4), torch.tensor([0, 1, 2**40 + 5, 2**63 - 1])
    together = noise.row_keys(seeds, ids)
    alone = torch.cat([noise.row_keys(int(seed), ids[i : i + 1]) for i, seed in enumerate(seeds)])
    assert torch.equal(together, alone)
