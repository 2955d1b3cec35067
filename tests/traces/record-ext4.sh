#!/bin/bash
# Records what a mounted ext4 asks of its disk, for `tests/tests/ext4_trace.rs`: two mounts, files made, changed, moved,
# linked and removed, syncs of files and of all, three freezes, two unmounts. The file system is the kernel's own, on a loop
# device over nbdfuse over nbdkit, which writes down every request that changes the disk, one at a time, flushes included.
#
# Needs root, nbdkit, nbdfuse, e2fsprogs, python3. Run it in an empty folder; what it makes is `ext4.trace`:
#
#   zlib of: u64 bytes of the disk, u32 number of different blocks, u32 number of operations (all little-endian);
#   the blocks, 1 KiB each, numbered from 1 (0 is all zeroes); the operations:
#   'w' u32 first block, u32 count, a u16 block number for each; 'f' flush; 'm' u8 mark: 1 frozen, 2 thawed, 3 unmounted.
#
# It begins with what mkfs wrote, as if the disk had been empty.
set -euo pipefail
here=$PWD
size=$((12 << 20))
rm -rf disk.img trace.bin mnt fuse; mkdir mnt; : > trace.bin; truncate -s $size disk.img
mkfs.ext4 -q -F -b 1024 -J size=1 -N 512 -m 0 -O ^metadata_csum_seed -U 6c0a1b52-40e7-4c51-9a58-0b6a6f3a1f10 -E hash_seed=6c0a1b52-40e7-4c51-9a58-0b6a6f3a1f10,lazy_itable_init=0,lazy_journal_init=0,nodiscard disk.img
cp --sparse=always disk.img base.img
: > nbd.sock.pid
# One request at a time, in the order in which the disk did them: an ASCII line (kind, offset, length), and the data.
nbdkit -U $here/nbd.sock -P nbd.sock.pid --threads 1 eval \
  thread_model='echo serialize_all_requests' \
  get_size="echo $size" can_write='exit 0' can_flush='exit 0' can_zero='exit 0' can_trim='exit 3' can_fua='echo emulate' \
  pread="dd if=$here/disk.img iflag=skip_bytes,count_bytes skip=\$4 count=\$3 bs=1M status=none" \
  pwrite="cat > $here/one; printf 'w %d %d\n' \$4 \$3 >> $here/trace.bin; cat $here/one >> $here/trace.bin; dd if=$here/one of=$here/disk.img oflag=seek_bytes seek=\$4 conv=notrunc bs=1M status=none" \
  zero="printf 'z %d %d\n' \$4 \$3 >> $here/trace.bin; dd if=/dev/zero of=$here/disk.img oflag=seek_bytes iflag=count_bytes count=\$3 seek=\$4 conv=notrunc bs=1M status=none" \
  flush="printf 'f 0 0\n' >> $here/trace.bin"
sleep 1
mkdir fuse; touch fuse/disk
nbdfuse fuse/disk "nbd+unix:///?socket=$here/nbd.sock" &
fusepid=$!
sleep 1
loop=$(losetup -f --show fuse/disk)
mark() { printf "m $1 0\n" >> trace.bin; }   # 1 frozen, 2 thawed, 3 unmounted
mount -o commit=1 $loop mnt
work() {
  for i in $(seq 1 12); do
    mkdir -p mnt/d$((i % 4)); seq $((i * 100)) $((i * 100 + 600 * $1)) > mnt/d$((i % 4))/f$1-$i
    if [ $((i % 3)) = 0 ]; then sync mnt/d$((i % 4))/f$1-$i; fi
    if [ $((i % 5)) = 0 ]; then mv mnt/d$((i % 4))/f$1-$i mnt/g$1-$i; rm -f mnt/d1/f$1-1; fi
  done
  ln -f mnt/g$1-10 mnt/hard$1; ln -sf g$1-10 mnt/soft$1; setfattr -n user.n -v $1 mnt/hard$1 2>/dev/null || true
}
work 1; sync; work 2
fsfreeze -f mnt; mark 1; fsfreeze -u mnt; mark 2
work 3; sleep 1.5
truncate -s 3000 mnt/g3-10; rm -r mnt/d2; work 4
umount mnt; sync $loop; mark 3
mount -o commit=1 $loop mnt
work 5; sync -f mnt; rm -rf mnt/d3; fsfreeze -f mnt; mark 1; fsfreeze -u mnt; mark 2; work 6
umount mnt; sync $loop; mark 3
losetup -d $loop; sleep 0.5
fusermount3 -u fuse/disk 2>/dev/null || umount fuse/disk; wait $fusepid || true
kill "$(cat nbd.sock.pid)"
e2fsck -fn disk.img

python3 - <<'END'
import sys, zlib, struct
BLOCK = 1024
zero = bytes(BLOCK)
blocks, ids, ops = [], {zero: 0}, []
def block(data):
    if data not in ids:
        ids[data] = len(ids); blocks.append(data)
    return ids[data]
def put(offset, data):
    assert offset % BLOCK == 0 and len(data) % BLOCK == 0
    ops.append(b"w" + struct.pack("<II", offset // BLOCK, len(data) // BLOCK)
        + b"".join(struct.pack("<H", block(data[at:at + BLOCK])) for at in range(0, len(data), BLOCK)))
base = open("base.img", "rb").read()
at = 0
while at < len(base):
    end = at
    while end < len(base) and base[end:end + BLOCK] != zero: end += BLOCK
    if end > at: put(at, base[at:end])
    at = end + BLOCK
ops.append(b"f"); ops.append(b"m" + bytes([3]))
trace = open("trace.bin", "rb").read()
at = 0
while at < len(trace):
    line = trace.index(b"\n", at)
    kind, offset, length = trace[at:line].split()
    offset, length, at = int(offset), int(length), line + 1
    if kind == b"w": put(offset, trace[at:at + length]); at += length
    elif kind == b"z": put(offset, bytes(length))
    elif kind == b"f": ops.append(b"f")
    else: ops.append(b"m" + bytes([offset]))
body = struct.pack("<QII", len(base), len(blocks), len(ops)) + b"".join(blocks) + b"".join(ops)
open("ext4.trace", "wb").write(zlib.compress(body, 9))
print(len(blocks), len(ops), len(body))
END
