package difyexec;

import module java.base;

/// The Celery workers that run streamed jobs, as Dify deploys them: each has a number of slots, and reserves one more
/// job for each of them. A job that a busy worker has reserved waits for that worker, even if another one is free, and
/// does not show. Any thread may use it.
///
/// Jobs leave the queue in the order in which they came. Chance decides which worker with room takes the next one.
final class SimulatedWorkers {
    private static final int RESERVED_PER_SLOT = 1;

    private final int slots;
    private final List<Worker> workers;
    private final Deque<CompletableFuture<Runnable>> queue = new ArrayDeque<>();
    private final RandomGenerator random;

    /// @param workers 0 for one that runs every job at once
    SimulatedWorkers(int workers, int slots, long seed) {
        this.slots = slots;
        this.workers = Stream.generate(Worker::new).limit(workers).toList();
        this.random = new SplittableRandom(seed);
    }

    private static final class Worker {
        /// Each is completed when its job begins.
        final Deque<CompletableFuture<Runnable>> reserved = new ArrayDeque<>();
        int busy = 0;
    }

    /// Adds a job to the queue. The result is there when a worker begins the job, and must be run when the job is over.
    CompletableFuture<Runnable> submit() {
        if (workers.isEmpty()) return CompletableFuture.completedFuture(() -> {});
        var turn = new CompletableFuture<Runnable>();
        synchronized (this) {
            queue.add(turn);
            distribute();
        }
        return turn;
    }

    private void distribute() {
        for (boolean isMoved = true; isMoved; ) {
            for (var worker : workers) start(worker);
            var takers = workers.stream().filter(this::hasRoom).toList();
            isMoved = !queue.isEmpty() && !takers.isEmpty();
            if (isMoved) takers.get(random.nextInt(takers.size())).reserved.add(queue.remove());
        }
    }

    private boolean hasRoom(Worker worker) {
        return worker.busy + worker.reserved.size() < slots * (1 + RESERVED_PER_SLOT);
    }

    private void start(Worker worker) {
        while (worker.busy < slots && !worker.reserved.isEmpty()) {
            worker.busy++;
            worker.reserved.remove().complete(() -> end(worker));
        }
    }

    private synchronized void end(Worker worker) {
        worker.busy--;
        distribute();
    }
}
