package difyexec;

import module java.base;

/// All runs, and the data of `/__stats`. Thread-safe.
final class SimulatedLedger {
    private final Map<String, List<SimulatedJob>> rows = new ConcurrentHashMap<>();
    private final Map<String, Integer> starts = new ConcurrentHashMap<>();
    private final Map<String, SimulatedJob> byRun = new ConcurrentHashMap<>(), byTask = new ConcurrentHashMap<>();
    private final Map<String, Deque<SimulatedJob>> listed = new ConcurrentHashMap<>();
    private final Deque<SimulatedJob> log = new ConcurrentLinkedDeque<>();
    private final Set<SimulatedJob> inLog = ConcurrentHashMap.newKeySet();
    private final Set<String> users = ConcurrentHashMap.newKeySet();
    private final Map<Simulator.Fault, Integer> faults = new ConcurrentHashMap<>();
    /// The runs there were when some were first forgotten, and the listed ones of them.
    private List<SimulatedJob> all;
    private Set<SimulatedJob> allListed;
    final AtomicInteger stops = new AtomicInteger(), looks = new AtomicInteger(), names = new AtomicInteger();

    int nextStart(String row) {
        return starts.merge(row, 1, Integer::sum);
    }

    void met(Simulator.Fault fault, String user) {
        if (fault != Simulator.Fault.NONE) faults.merge(fault, 1, Integer::sum);
        users.add(user);
    }

    /// A new run of a row. It is paid twice if an earlier one succeeded or still may.
    SimulatedJob take(String row, SimulatedJob.Start start, Simulator.Pace pace) {
        var taken = new AtomicReference<SimulatedJob>();
        rows.compute(row, (_, before) -> {
            var jobs = before == null ? new ArrayList<SimulatedJob>(2) : new ArrayList<>(before);
            taken.set(new SimulatedJob(row, start, jobs.stream().anyMatch(SimulatedJob::isPaid), pace));
            jobs.add(taken.get());
            return List.copyOf(jobs);
        });
        return taken.get();
    }

    void began(SimulatedJob job) {
        var run = job.began.join();
        byRun.put(run.id(), job);
        byTask.put(run.task(), job);
    }

    /// Makes it visible in the log, once.
    void list(SimulatedJob job) {
        if (!inLog.add(job)) return;
        log.addFirst(job);
        listed.computeIfAbsent(job.user, _ -> new ConcurrentLinkedDeque<>()).addFirst(job);
    }

    /// Returns to the time when only these users had sent requests; `*` keeps all. Of the runs at the first such
    /// call, only theirs remain, and they are over.
    synchronized List<SimulatedJob> keep(Set<String> wanted) {
        if (all == null) {
            all = rows.values().stream().flatMap(List::stream).sorted(Comparator.comparing(job -> job.taken)).toList();
            allListed = Set.copyOf(inLog);
        }
        var kept = all.stream().filter(job -> wanted.contains("*") || wanted.contains(job.user)).toList();
        Stream.of(rows, starts, byRun, byTask, listed).forEach(Map::clear);
        Stream.of(log, inLog, users).forEach(Collection::clear);
        for (var job : kept) {
            job.stored.join();
            users.add(job.user);
            nextStart(job.row);
            rows.merge(job.row, List.of(job), (before, one) -> Stream.concat(before.stream(), one.stream()).toList());
            began(job);
            if (allListed.contains(job)) list(job);
        }
        return kept;
    }

    Stream<SimulatedJob> all() {
        return rows.values().stream().flatMap(List::stream);
    }

    Optional<SimulatedJob> withRun(String id) {
        return Optional.ofNullable(byRun.get(id));
    }

    Optional<SimulatedJob> withTask(String id) {
        return Optional.ofNullable(byTask.get(id));
    }

    /// The log, newest first, of one user, or of all users if the name is empty.
    Stream<SimulatedJob> listed(String user) {
        return (user.isEmpty() ? log : listed.getOrDefault(user, new ConcurrentLinkedDeque<>())).stream()
                .filter(job -> job.now().isPresent());
    }

    Map<String, Object> stats(boolean each) {
        var states = new TreeMap<String, Integer>();
        rows.values().stream().flatMap(List::stream).forEach(job -> states.merge(job.status(), 1, Integer::sum));
        var met = new TreeMap<String, Object>();
        faults.forEach((fault, count) -> met.put(fault.word(), count));
        var stats = SimulatedJson.object("rows", rows.size(), "started", count(_ -> true),
                "succeeded", count(SimulatedLedger::succeeded), "twice", count(job -> job.twice), "users", users.size(),
                "stops", stops.get(), "looks", looks.get(), "names", names.get(), "states", states, "faults", met);
        if (each) stats.put("by_row", byRow());
        return stats;
    }

    private int count(Predicate<SimulatedJob> which) {
        return (int) rows.values().stream().flatMap(List::stream).filter(which).count();
    }

    private static boolean succeeded(SimulatedJob job) {
        return List.of("succeeded", "partial-succeeded").contains(job.status());
    }

    private Map<String, Object> byRow() {
        var all = new TreeMap<String, Object>();
        rows.forEach((id, jobs) -> all.put(id, SimulatedJson.object("started", jobs.size(),
                "succeeded", (int) jobs.stream().filter(SimulatedLedger::succeeded).count(),
                "twice", (int) jobs.stream().filter(job -> job.twice).count(),
                "runs", jobs.stream().map(SimulatedLedger::summary).toList())));
        return all;
    }

    private static Map<String, Object> summary(SimulatedJob job) {
        var summary = SimulatedJson.object("user", job.user, "run", job.now().map(SimulatedRun::id).orElse(null),
                "state", job.status(), "fault", job.fate.fault().word(), "taken", job.taken.toString(),
                "twice", job.twice);
        job.talk.ifPresent(talk -> summary.put("stored", talk.isStored())); // and if not, the answer is lost
        return summary;
    }
}
