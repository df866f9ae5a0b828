package difyexec;

import module java.base;

/// The end users of an app that is asked questions and their conversations. Any thread may use it.
final class SimulatedConversations {
    private static final Duration MAKING = Duration.ofMillis(20);

    private final Map<String, EndUser> users = new ConcurrentHashMap<>();
    private final Map<String, List<SimulatedJob>> conversations = new ConcurrentHashMap<>();
    private final Simulator.Pace pace;

    SimulatedConversations(Simulator.Pace pace) {
        this.pace = pace;
    }

    /// A user gets an end user at the first question or run. Two simultaneous requests can create two of
    /// them: then one permanently has the conversation, and the other is asked for it.
    void meet(String user, boolean isRun) {
        var known = users.computeIfAbsent(user, EndUser::new);
        if (known.isMade(isRun)) return;
        LockSupport.parkNanos(MAKING.dividedBy(pace.times()).toNanos());
        known.made = true;
    }

    /// The question of a run that has started.
    void add(SimulatedJob job) {
        job.question.map(SimulatedMessage::conversation).filter(id -> !id.isEmpty()).ifPresent(id ->
                conversations.merge(id, List.of(job), (before, one) ->
                        Stream.concat(before.stream(), one.stream()).toList()));
    }

    /// Forgets all others.
    void keep(List<SimulatedJob> jobs) {
        users.clear();
        conversations.clear();
        for (var job : jobs) {
            var user = users.computeIfAbsent(job.user, EndUser::new);
            user.isMade(true);
            user.made = true;
            add(job);
        }
    }

    /// The messages of a conversation, oldest first, or none if it is not found.
    List<Map<String, Object>> messages(String user, String conversation) {
        return of(user, conversation).stream().map(SimulatedJob::message).toList();
    }

    private List<SimulatedJob> of(String user, String conversation) {
        var jobs = conversations.getOrDefault(conversation, List.of());
        boolean isTheirs = jobs.stream().allMatch(job -> job.user.equals(user)) && !isHidden(user);
        return isTheirs ? jobs : List.of();
    }

    private boolean isHidden(String user) {
        return users.containsKey(user) && users.get(user).two;
    }

    /// The conversations of this user, those that were updated last first.
    ///
    /// @param sortBy `created_at` or `updated_at`, with `-` for the newest first
    /// @param last   the conversation that ends the page before, or empty; those of its second are left out, as in
    ///               Dify
    List<Map<String, Object>> of(String user, String sortBy, String last) {
        var field = sortBy.replaceFirst("^-", "").isEmpty() ? "updated_at" : sortBy.replaceFirst("^-", "");
        boolean isNewestFirst = sortBy.isEmpty() || sortBy.startsWith("-");
        var order = Comparator.comparing((Map<String, Object> each) -> (Long) each.get(field));
        var all = conversations.keySet().stream().map(conversation -> of(user, conversation))
                .filter(jobs -> !jobs.isEmpty())
                .sorted(Comparator.comparing((List<SimulatedJob> jobs) -> updated(jobs)).reversed())
                .map(jobs -> jobs.getFirst().conversation(updated(jobs)))
                .sorted(isNewestFirst ? order.reversed() : order).toList();
        var before = all.stream().filter(each -> each.get("id").equals(last)).findFirst();
        return before.isEmpty() ? all : all.stream().filter(each ->
                order.compare(each, before.get()) * (isNewestFirst ? 1 : -1) < 0).toList();
    }

    private static Instant updated(List<SimulatedJob> jobs) {
        return jobs.getLast().began.join().created();
    }

    /// Everything known under one name.
    private static final class EndUser {
        private final boolean splits;
        private boolean asked, ran;
        private volatile boolean made, two;

        EndUser(String name) {
            this.splits = new SplittableRandom(name.hashCode()).nextBoolean(); // 5 of 10 on the servers
        }

        synchronized boolean isMade(boolean isRun) {
            if (isRun) ran = true;
            else asked = true;
            if (!made && asked && ran) two = splits;
            return made;
        }
    }
}
