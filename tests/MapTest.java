package difyexec;

import com.sun.source.tree.BindingPatternTree;
import com.sun.source.tree.CaseTree;
import com.sun.source.tree.ClassTree;
import com.sun.source.tree.CompilationUnitTree;
import com.sun.source.tree.DefaultCaseLabelTree;
import com.sun.source.tree.ExpressionTree;
import com.sun.source.tree.IdentifierTree;
import com.sun.source.tree.MemberReferenceTree;
import com.sun.source.tree.MemberSelectTree;
import com.sun.source.tree.MethodTree;
import com.sun.source.tree.NewClassTree;
import com.sun.source.tree.PatternCaseLabelTree;
import com.sun.source.tree.SwitchExpressionTree;
import com.sun.source.tree.SwitchTree;
import com.sun.source.tree.Tree;
import com.sun.source.util.JavacTask;
import com.sun.source.util.TreePath;
import com.sun.source.util.TreePathScanner;
import com.sun.source.util.Trees;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Nested;
import org.junit.jupiter.api.Test;

import javax.lang.model.element.Element;
import javax.lang.model.element.Modifier;
import javax.lang.model.element.TypeElement;
import javax.lang.model.type.DeclaredType;
import javax.lang.model.type.TypeMirror;
import javax.tools.JavaFileObject;
import javax.tools.SimpleJavaFileObject;
import javax.tools.ToolProvider;

import module java.base;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

/// Checks the two laws and the budgets of `DifyExec.java` on the compiler's trees. Class files would not do, because
/// the compiler inlines constants.
final class MapTest {

    /// `DifyExec.java` as the compiler sees it. `uses` and `catchAlls` are sentences with the line.
    record SourceMap(String text, Map<String, Integer> startOfSection, List<Member> members, Set<String> upward,
            Set<String> privateUses, List<String> catchAlls, List<Method> methods, List<Type> types) {

        /// A declaration directly inside the outermost class.
        record Member(String name, String section, boolean isType) {}

        record Type(String name, String section) {}

        record Method(String name, String section, int parameters, int lines) {}

        static SourceMap of(String text) throws IOException {
            var file = new SimpleJavaFileObject(URI.create("string:///DifyExec.java"), JavaFileObject.Kind.SOURCE) {
                @Override
                public CharSequence getCharContent(boolean ignoreEncodingErrors) {
                    return text;
                }
            };
            var task = (JavacTask) ToolProvider.getSystemJavaCompiler().getTask(Writer.nullWriter(), null, _ -> {},
                    List.of("-proc:none", "-classpath", System.getProperty("java.class.path")), null, List.of(file));
            var unit = task.parse().iterator().next();
            task.analyze();
            var reader = new Reader(unit, Trees.instance(task), sections(text));
            reader.scan(unit, null);
            return new SourceMap(text, reader.sections, reader.members, reader.upward, reader.privateUses,
                    reader.catchAlls, reader.methods, reader.types);
        }

        /// The line that each section starts at, in the file's order.
        private static Map<String, Integer> sections(String text) {
            var rule = Pattern.compile("    // ── (\\S.*?) ─+");
            var sections = new LinkedHashMap<>(Map.of("Head", 1));
            var lines = text.lines().toList();
            for (int line = 0; line < lines.size(); line++) {
                var match = rule.matcher(lines.get(line));
                if (match.matches()) sections.put(match.group(1), line + 1);
            }
            return sections;
        }

        long lines() {
            return text.lines().count();
        }

        /// Counts the lines that are neither blank nor a comment.
        long codeLines() {
            return text.lines().filter(line -> !line.isBlank() && !line.strip().startsWith("//")).count();
        }
    }

    /// Walks the tree once and collects everything that the map needs.
    private static final class Reader extends TreePathScanner<Void, Void> {
        final Map<String, Integer> sections;
        final List<SourceMap.Member> members = new ArrayList<>();
        final List<SourceMap.Method> methods = new ArrayList<>();
        final List<SourceMap.Type> types = new ArrayList<>();
        final Set<String> upward = new TreeSet<>(), privateUses = new TreeSet<>();
        final List<String> catchAlls = new ArrayList<>();
        private final CompilationUnitTree unit;
        private final Trees trees;
        private final List<String> order;
        /// The section of each declaration directly inside the outermost class; empty: not in this file.
        private final Map<Element, String> sectionOf = new HashMap<>();
        /// The declarations that enclose the current place: the outermost class, its member, the innermost type.
        private final Deque<TypeElement> enclosing = new ArrayDeque<>();
        private Element member;

        Reader(CompilationUnitTree unit, Trees trees, Map<String, Integer> sections) {
            this.unit = unit;
            this.trees = trees;
            this.sections = sections;
            this.order = List.copyOf(sections.keySet());
        }

        @Override
        public Void visitClass(ClassTree tree, Void nothing) {
            var element = (TypeElement) trees.getElement(getCurrentPath());
            if (tree.getSimpleName().isEmpty()) return super.visitClass(tree, nothing); // anonymous: part of its method
            types.add(new SourceMap.Type(name(element), section(tree)));
            enclosing.push(element);
            if (enclosing.size() > 1) super.visitClass(tree, nothing);
            else for (var part : tree.getMembers()) {
                member = trees.getElement(new TreePath(getCurrentPath(), part));
                if (member != null) members.add(new SourceMap.Member(member.getSimpleName().toString(), section(part),
                        part instanceof ClassTree));
                scan(part, nothing);
            }
            enclosing.pop();
            return null;
        }

        @Override
        public Void visitMethod(MethodTree tree, Void nothing) {
            var element = trees.getElement(getCurrentPath());
            boolean isWritten = trees.getSourcePositions().getEndPosition(unit, tree) > start(tree)
                    && !(tree.getName().contentEquals("<init>") && isGenerated(element));
            if (isWritten) methods.add(new SourceMap.Method(name(element.getEnclosingElement()) + "."
                    + tree.getName(), section(tree), tree.getParameters().size(),
                    line(trees.getSourcePositions().getEndPosition(unit, tree)) - line(start(tree)) + 1));
            return super.visitMethod(tree, nothing);
        }

        /// Whether the compiler added this constructor: that of a record has the position of its type.
        private boolean isGenerated(Element element) {
            var tree = trees.getTree(element.getEnclosingElement());
            return tree != null && start(tree) == start(trees.getTree(element));
        }

        @Override
        public Void visitIdentifier(IdentifierTree tree, Void nothing) {
            use(tree);
            return super.visitIdentifier(tree, nothing);
        }

        @Override
        public Void visitMemberSelect(MemberSelectTree tree, Void nothing) {
            use(tree);
            return super.visitMemberSelect(tree, nothing);
        }

        @Override
        public Void visitMemberReference(MemberReferenceTree tree, Void nothing) {
            use(tree);
            return super.visitMemberReference(tree, nothing);
        }

        @Override
        public Void visitNewClass(NewClassTree tree, Void nothing) {
            use(tree);
            return super.visitNewClass(tree, nothing);
        }

        @Override
        public Void visitSwitch(SwitchTree tree, Void nothing) {
            cases(tree.getExpression(), tree.getCases());
            return super.visitSwitch(tree, nothing);
        }

        @Override
        public Void visitSwitchExpression(SwitchExpressionTree tree, Void nothing) {
            cases(tree.getExpression(), tree.getCases());
            return super.visitSwitchExpression(tree, nothing);
        }

        private void cases(ExpressionTree selector, List<? extends CaseTree> cases) {
            var type = trees.getTypeMirror(new TreePath(getCurrentPath(), selector));
            if (!isOurSealed(type)) return;
            for (var one : cases) for (var label : one.getLabels()) {
                boolean isAny = label instanceof DefaultCaseLabelTree || one.getGuard() == null
                        && label instanceof PatternCaseLabelTree pattern
                        && pattern.getPattern() instanceof BindingPatternTree binding
                        && isOurSealed(trees.getElement(new TreePath(getCurrentPath(),
                                binding.getVariable())).asType());
                if (isAny) catchAlls.add("line " + line(start(one)) + ": " + type);
            }
        }

        private boolean isOurSealed(TypeMirror type) {
            return type instanceof DeclaredType declared && declared.asElement() instanceof TypeElement element
                    && element.getModifiers().contains(Modifier.SEALED) && topMember(element).isPresent();
        }

        private void use(Tree tree) {
            if (enclosing.isEmpty() || member == null || start(tree) < 0) return;
            var used = trees.getElement(getCurrentPath());
            var target = used == null ? Optional.<Element>empty() : topMember(used);
            if (target.isEmpty() || sectionOf(target.get()).isEmpty()) return;
            var from = sectionOf(member);
            var to = sectionOf(target.get());
            if (order.indexOf(from) > order.indexOf(to)) upward.add(from + ", " + member.getSimpleName() + " → " + to
                    + ", " + target.get().getSimpleName());
            var owner = used.getEnclosingElement();
            boolean isPrivate = used.getModifiers().contains(Modifier.PRIVATE) && !(used instanceof TypeElement)
                    && !owner.getSimpleName().isEmpty() // an anonymous type is part of its method
                    && !(isConstructor(used) && owner.getModifiers().contains(Modifier.PRIVATE));
            if (isPrivate && !enclosing.contains(owner)) privateUses.add(name(owner) + "."
                    + used.getSimpleName() + " used by " + name(enclosing.peek()));
        }

        private static boolean isConstructor(Element element) {
            return element.getSimpleName().contentEquals("<init>");
        }

        /// The declaration directly inside the outermost class that an element belongs to.
        private static Optional<Element> topMember(Element element) {
            for (var at = element; at != null; at = at.getEnclosingElement())
                if (at.getEnclosingElement() instanceof TypeElement outer
                        && outer.getQualifiedName().contentEquals("difyexec.DifyExec")) return Optional.of(at);
            return Optional.empty();
        }

        private static String name(Element element) {
            return element.toString().replaceFirst("^difyexec\\.(DifyExec\\.)?", "");
        }

        private String sectionOf(Element element) {
            return sectionOf.computeIfAbsent(element, key ->
                    Optional.ofNullable(trees.getTree(key)).map(this::section).orElse(""));
        }

        private String section(Tree tree) {
            int line = line(start(tree));
            return order.reversed().stream().filter(name -> sections.get(name) <= line).findFirst().orElseThrow();
        }

        private long start(Tree tree) {
            return trees.getSourcePositions().getStartPosition(unit, tree);
        }

        private int line(long position) {
            return (int) unit.getLineMap().getLineNumber(position);
        }
    }

    static String source() throws IOException {
        try (var packed = MapTest.class.getResourceAsStream("/DifyExec.java")) {
            return packed != null ? new String(packed.readAllBytes(), UTF_8)
                    : Files.readString(Stream.of("DifyExec.java", "../DifyExec.java").map(Path::of)
                            .filter(Files::isRegularFile).findFirst().orElseThrow());
        }
    }

    public static void main(String... args) throws IOException {
        var map = SourceMap.of(source());
        var ends = new ArrayList<>(map.startOfSection().values());
        ends.add((int) map.lines() + 1);
        var names = List.copyOf(map.startOfSection().keySet());
        IO.println("section        lines  types (top)  methods");
        for (int at = 0; at < names.size(); at++) {
            var section = names.get(at);
            IO.println("%-13s %6d %6d %5d %8d".formatted(section, ends.get(at + 1) - ends.get(at),
                    map.types().stream().filter(type -> type.section().equals(section)).count(),
                    map.members().stream().filter(part -> part.isType() && part.section().equals(section)).count(),
                    map.methods().stream().filter(method -> method.section().equals(section)).count()));
        }
        IO.println("%-13s %6d %6d %5d %8d   code lines %d".formatted("all", map.lines(), map.types().size() - 1,
                map.members().stream().filter(SourceMap.Member::isType).count(), map.methods().size(),
                map.codeLines()));
        print("methods with more than four parameters", map.methods().stream().filter(one -> one.parameters() > 4)
                .map(one -> one.section() + " " + one.name() + " " + one.parameters()));
        print("methods longer than 60 lines", map.methods().stream().filter(one -> one.lines() > 60)
                .map(one -> one.section() + " " + one.name() + " " + one.lines()));
        print("references that point up", map.upward().stream());
        print("catch-alls over our sealed types", map.catchAlls().stream());
        print("private members used by another type", map.privateUses().stream());
    }

    private static void print(String title, Stream<String> items) {
        var all = items.toList();
        IO.println("\n" + title + ": " + all.size());
        all.forEach(item -> IO.println("  " + item));
    }

    @Nested
    class TheMap {
        private static SourceMap map;

        @BeforeAll
        static void read() throws IOException {
            map = SourceMap.of(source());
        }

        @Test
        void theWholeFileIsRead() {
            assertTrue(map.members().size() > 50 && map.methods().size() > 500, map.members().size() + " members");
        }

        @Test
        void everyReferencePointsDownThePage() {
            assertEquals(Set.of(), map.upward());
        }

        @Test
        void everySwitchOverASealedTypeNamesItsCases() {
            assertEquals(List.of(), map.catchAlls());
        }

        @Test
        void noTypeUsesAPrivateMemberOfAnother() {
            assertEquals(Set.of(), map.privateUses());
        }

        @Test
        void theFileIsNotTooLong() {
            assertTrue(map.codeLines() <= 9_700, map.codeLines() + " code lines");
            assertTrue(map.members().stream().filter(SourceMap.Member::isType).count() <= 105);
            assertTrue(map.types().size() - 1 <= 290, map.types().size() - 1 + " types");
            assertTrue(map.methods().size() <= 1_250, map.methods().size() + " methods");
            assertTrue(map.methods().stream().filter(method -> method.parameters() > 4).count() <= 15);
            assertEquals(List.of(), map.methods().stream().filter(method -> method.lines() > 60).toList());
        }
    }
}
